"""The front page of the staff screens: how the service is doing, in counts and ages."""

from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Q

from headshots.admin.base import Table, counted, length
from headshots.models import Dispute, Heartbeat, Order, Refund, Shot, StoredObject, Style
from headshots.services import clock, purge, staff_refunds, workers
from headshots.states import WORKING_STATES, OrderState, ShotState

LATE: Final = timedelta(minutes=2)  # the purge runs every minute: a second missed round is worth a warning


def read(now: datetime, *, count_store: bool) -> list[Table]:
    """The tables of the dashboard. `count_store` lists the whole store, which takes long when it is full."""
    return [
        _orders(),
        _queue(now),
        _workers(now),
        _failures(now),
        _switched_off(now),
        _money(),
        _deletion(now, count_store=count_store),
    ]


def _orders() -> Table:
    counts = dict(Order.objects.order_by().values_list("state").annotate(count=Count("pk")))
    return Table(
        title="Orders by state",
        headers=("State", "Orders"),
        rows=[(state, counts[state]) for state in OrderState.values if state in counts],
    )


def _queue(now: datetime) -> Table:
    wanted = Shot.objects.filter(order__state__in=WORKING_STATES, order__expires_at__gt=now)
    counts = wanted.aggregate(
        waiting=Count("pk", filter=Q(state=ShotState.PENDING)),
        leased=Count("pk", filter=Q(state=ShotState.LEASED)),
        stale=Count("pk", filter=Q(state=ShotState.LEASED, lease_until__lt=now)),
    )
    oldest = (
        wanted.filter(state=ShotState.PENDING).order_by("order__created_at").select_related("order").first()
    )
    return Table(
        title="Queue",
        headers=("Shots", "Now"),
        rows=[
            ("waiting", counts["waiting"]),
            ("oldest waiting", length(now - oldest.order.created_at) if oldest else None),
            ("being rendered", counts["leased"]),
            ("with a lease that ran out", counts["stale"]),
        ],
    )


def _workers(now: datetime) -> Table:
    known = workers.known(now)
    silent = sum(worker.is_silent(now) for worker in known if worker.leased_shots)
    ahead = sum(worker.is_ahead(now) for worker in known)
    problems = []
    if silent:
        problems.append(
            f"{counted(silent, 'worker')} stopped with shots: its device is stuck, or it is gone."
        )
    if ahead:
        limit = f"{clock.MAX_LEAD.total_seconds():.0f} s"
        problems.append(f"The clock of {counted(ahead, 'worker')} is ahead; beyond {limit} it takes no work.")
    return Table(
        title="Workers that render",
        headers=("Worker", "Last moved", "Shots"),
        rows=[(w.name, f"{length(now - w.moved_at)} ago", w.leased_shots) for w in known],
        note=" ".join(problems),
    )


def _failures(now: datetime) -> Table:
    failed = Shot.objects.filter(state=ShotState.FAILED, finished_at__gt=now - timedelta(hours=1)).order_by()
    counts = failed.values_list("error_code").annotate(count=Count("pk")).order_by("-count", "error_code")
    return Table(title="Failed shots, last hour", headers=("Error", "Shots"), rows=list(counts))


def _switched_off(now: datetime) -> Table:
    off = Style.objects.filter(switched_off_at__isnull=False).order_by("switched_off_at")
    rows = [
        (style.name, f"{length(now - style.switched_off_at)} ago") for style in off if style.switched_off_at
    ]
    note = "Too many of their shots failed, so nobody can choose them. See why, then publish them again."
    return Table(
        title="Styles switched off by the service",
        headers=("Style", "Since"),
        rows=rows,
        note=note if rows else "",
    )


def _money() -> Table:
    failed = staff_refunds.failed_for_good().count()
    disputed = Dispute.objects.filter(state=Dispute.State.OPEN).count()
    problems = []
    if failed:
        told = counted(failed, "refund")
        problems.append(f"{told} did not arrive, and nothing went back since: give it back another way.")
    if disputed:
        verb = "waits" if disputed == 1 else "wait"
        problems.append(f"{counted(disputed, 'dispute')} {verb} for an answer at the provider.")
    return Table(
        title="Money",
        headers=("What", "Now"),
        rows=[
            ("refunds to be sent", Refund.objects.filter(state=Refund.State.DUE).count()),
            ("refunds that failed", failed),
            ("open disputes", disputed),
        ],
        note=" ".join(problems),
    )


def _deletion(now: datetime, *, count_store: bool) -> Table:
    last = Heartbeat.objects.filter(name=purge.HEARTBEAT).values_list("at", flat=True).first()
    due = Order.objects.due(now)
    overdue = due.filter(expires_at__lt=now - LATE).count()
    rows: list[tuple[object, object]] = [
        ("last round of the purge", f"{length(now - last)} ago" if last else "never"),
        ("orders due", due.count()),
        ("objects on record", StoredObject.objects.count()),
    ]
    if count_store:
        rows.append(("objects in the store", purge.objects_left()))
    problems = []
    if last is None or now - last > LATE:
        problems.append(
            "The purge has missed its round: see that the worker and beat run, or run “manage.py purge”."
        )
    if overdue:
        problems.append(f"{counted(overdue, 'order')} should have been purged more than 2 minutes ago.")
    return Table(title="Deletion", headers=("What", "Now"), rows=rows, note=" ".join(problems))
