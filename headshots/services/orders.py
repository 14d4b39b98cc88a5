"""Orders: placed with a frozen plan, found by their capability, accepted or refused after assessment."""

import hashlib
import hmac
import logging
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from headshots.exceptions import NotFound, Refusal
from headshots.faults import faultpoint
from headshots.hints import Task, enqueue
from headshots.models import ConsentRecord, Mail, Order, Payment, Shot, StyleVersion
from headshots.services import (
    admission,
    audit,
    clock,
    consent,
    contacts,
    estimates,
    fair_queue,
    fencing,
    guarantee,
    incarnation,
    licences,
    mails,
    objects,
    payments,
    purge,
    queue_clock,
    sales,
    styles,
    uploads,
)
from headshots.states import OPEN_STATES, WORKING_STATES, OrderState, ShotState
from headshots.tiers import TIERS, Tier
from headshots.vault.keys import epoch_of, not_after_of
from headshots.vault.receipts import new_receipt_id
from headshots.vault.tokens import is_well_formed, new_token, token_digest

log = logging.getLogger(__name__)

SERVICE_MARGIN: Final = timedelta(minutes=30)  # reads stop this long before the keys die
SPARE_SEEDS: Final = 2  # a picture that fails the quality gate is redone with the next seed


@dataclass(frozen=True, slots=True)
class Placed:
    """A new order and its capability token, which exists in clear only here."""

    order: Order
    token: str


def place(
    *,
    raw: bytes,
    tier_slug: str,
    style_slugs: Sequence[str],
    agreed: consent.Consent,
    upload_id: uuid.UUID | None,
    now: datetime,
    address: str = "",
    visitor: admission.Visitor | None = None,
) -> Placed:
    """Take one selfie and place an order for it: plan frozen, photo sealed, assessment under way.

    `address` is where its mails go; empty for none. `visitor` is who sends it over the network; None when a
    program of ours places it. Raises Refusal (its code says what the customer can do); nothing of the order
    was stored then.
    """
    if not (agreed.is_given and agreed.is_adult):
        raise Refusal("consent_missing")
    clock.require_agreement()
    incarnation.require_current()
    purge.nudge(now)
    tier = TIERS.get(tier_slug)
    if tier is None:
        raise Refusal("unknown_tier")
    address = contacts.checked(address)
    sales.require_on_sale(tier)
    versions = styles.chosen(tier, style_slugs)
    if upload_id and Order.objects.filter(upload_id=upload_id).exists():
        raise Refusal("already_ordered")
    estimates.require_room(tier, not_after_of(epoch_of(now)) - SERVICE_MARGIN, now)
    if visitor:
        admission.admit(visitor, tier, now, address)
    clean = uploads.clean(raw)
    faultpoint("upload.cleaned")

    token = new_token()
    order = _new_order(tier, upload_id, token, now)
    try:
        with transaction.atomic():
            if visitor:
                admission.count(visitor, tier, now, address)
            _write(order, tier, agreed, versions, now)
            if address:
                contacts.keep(order, contacts.Contact(address=address, token=token), now)
            faultpoint("upload.order_written")
    except IntegrityError as error:  # two posts of one form at the same moment: the constraint decides
        if upload_id and Order.objects.filter(upload_id=upload_id).exists():
            raise Refusal("already_ordered") from error
        raise
    faultpoint("upload.order_committed")
    try:
        uploads.store_selfie(order, clean, now)
    except Exception:
        fencing.begin(order, reason="upload failed", now=now)
        raise
    return Placed(order, token)


def _write(
    order: Order, tier: Tier, agreed: consent.Consent, versions: Sequence[StyleVersion], now: datetime
) -> None:
    """All rows of a new order that any order has. The caller's transaction holds them together."""
    order.save(force_insert=True)
    ConsentRecord.objects.create(
        order=order,
        text_version=consent.VERSION,
        text_sha256=consent.TEXT_SHA256,
        is_adult=agreed.is_adult,
        given_at=now,
    )
    licences.grant(order, now)
    objects.create_keys(order, now)
    Shot.objects.bulk_create(_plan(order, versions, now))
    if tier.price_cents:
        payments.open_payment(order, now)
    audit.record("order.placed", actor="customer", reference=order.receipt_id, now=now, tier=tier.slug)


def _new_order(tier: Tier, upload_id: uuid.UUID | None, token: str, now: datetime) -> Order:
    epoch = epoch_of(now)
    not_after = not_after_of(epoch)
    return Order(
        upload_id=upload_id,
        token_sha256=token_digest(token),
        receipt_id=new_receipt_id(),
        engine=settings.ENGINE,
        tier=tier.slug,
        headshots=tier.headshots,
        long_edge=tier.long_edge,
        is_watermarked=tier.is_watermarked,
        price_cents=tier.price_cents,
        seed_root=secrets.token_bytes(32),
        epoch=epoch,
        created_at=now,
        expires_at=not_after - SERVICE_MARGIN,
        not_after=not_after,
    )


def _plan(order: Order, versions: Sequence[StyleVersion], now: datetime) -> list[Shot]:
    """The shots: styles in turn, so that the first pictures already show the variety; spares come last."""
    styled = [versions[place % len(versions)] for place in range(TIERS[order.tier].planned)]
    works = [fair_queue.work_of(version.num_inference_steps, order.long_edge) for version in styled]
    offsets = fair_queue.offsets(works, TIERS[order.tier])
    return [
        Shot(
            order=order,
            index=index,
            style_version=version,
            seed=seeds_of(order, version.pk, index)[0],
            not_before=now,
            work=work,
            virtual_offset=offset,
        )
        for index, (version, work, offset) in enumerate(zip(styled, works, offsets, strict=True), start=1)
    ]


def seeds_of(order: Order, style_version_id: int, index: int) -> tuple[int, ...]:
    """The planned seed of a shot and its spares: 63 bits of HMAC-SHA-256 under the order's own secret."""
    root = bytes(order.seed_root or b"")
    digests = (
        hmac.digest(root, f"{style_version_id}|{index}|{attempt}".encode(), hashlib.sha256)
        for attempt in range(1 + SPARE_SEEDS)
    )
    return tuple(int.from_bytes(digest[:8]) & (2**63 - 1) for digest in digests)


def find(order_id: uuid.UUID, token: str, now: datetime) -> Order:
    """The live order that `token` opens. Raises NotFound, the same for unknown, foreign, expired, deleted."""
    if not is_well_formed(token):
        raise NotFound
    order = Order.objects.live(now).filter(token_sha256=token_digest(token)).first()
    if order is None or order.pk != order_id:
        raise NotFound
    incarnation.require_current()
    return order


def find_by_token(token: str, now: datetime) -> Order:
    """The live order that `token` opens, when only the private link is known. Raises NotFound."""
    order = is_well_formed(token) and Order.objects.live(now).filter(token_sha256=token_digest(token)).first()
    if not order:
        raise NotFound
    incarnation.require_current()
    return order


def begin_assessment(order_id: uuid.UUID, now: datetime) -> Order | None:
    """Claim the assessment of an order for the length of a lease; None when it is somebody else's or done."""
    lease_until = now + timedelta(seconds=settings.LEASE_SECONDS)
    claimable = Order.objects.live(now).filter(pk=order_id, state=OrderState.ASSESSING)
    for attempts in claimable.values_list("assess_attempts", flat=True):
        won = (
            claimable.filter(assess_attempts=attempts)
            .exclude(assess_lease_until__gt=now)
            .update(assess_attempts=attempts + 1, assess_lease_until=lease_until)
        )
        if won:
            faultpoint("assess.claimed")
            return Order.objects.get(pk=order_id)
    return None


def accept(order: Order, now: datetime) -> None:
    """The photo is usable: a free order starts, a premium one waits for its payment."""
    with transaction.atomic():
        target = OrderState.AWAITING_PAYMENT if order.price_cents else OrderState.QUEUED
        if Order.objects.filter(pk=order.pk).move(target, assessed_at=now) and target == OrderState.QUEUED:
            queue_clock.enter(order, now)
            enqueue(Task.RENDER, copies=order.headshots)
        faultpoint("accept.moved")
    faultpoint("accept.committed")
    if order.price_cents:  # the customer may have paid while the photo was being looked at
        payments.start_if_paid(order, now)


def refuse(order: Order, code: str, now: datetime) -> None:
    """The photo is not usable: say why, and erase it at once."""
    with transaction.atomic():
        moved = Order.objects.filter(pk=order.pk).move(OrderState.REFUSED, assessed_at=now, refusal_code=code)
        if moved:
            audit.record("order.refused", actor="engine", reference=order.receipt_id, now=now, code=code)
        faultpoint("refuse.moved")
    if moved:
        faultpoint("refuse.committed")
        _erase_refused(order, now)


def _erase_refused(order: Order, now: datetime) -> None:
    payments.refund_missing(order, now)  # paid while the photo was being looked at
    faultpoint("refuse.refunded")
    purge.erase_contents(order, now)


def resume(now: datetime) -> None:
    """Go on where a process died between two steps: paid orders not started, refused photos still there."""
    paid = Order.objects.live(now).filter(
        state=OrderState.AWAITING_PAYMENT, payment__state=Payment.State.PAID
    )
    for order in paid:
        payments.start_if_paid(order, now)
    for order in Order.objects.filter(state=OrderState.REFUSED, absent_at=None):
        try:
            _erase_refused(order, now)
        except (OSError, RuntimeError) as error:  # the store is away: the next sweep tries again
            log.error("refused order %s could not be erased: %s", order.pk, type(error).__name__)


def finish(order_id: uuid.UUID, now: datetime) -> None:
    """What follows when a shot came to its end: deliver what is decided, and close the order after its last.

    Pictures that are not needed are deleted then, and what is missing is refunded.
    """
    with transaction.atomic():
        working = Order.objects.select_for_update().filter(pk=order_id, state__in=WORKING_STATES)
        for order in working:
            guarantee.settle(order)
            _close(order, now)
    guarantee.erase_surplus([order_id])


def _close(order: Order, now: datetime) -> None:
    shots = Shot.objects.filter(order=order)
    # A redo that is kept waits for its customer, for as long as the order lives.
    if shots.filter(Q(state__in=OPEN_STATES) | Q(state=ShotState.KEPT, replaces=None)).exists():
        return
    target = OrderState.READY if shots.filter(state=ShotState.DONE).exists() else OrderState.FAILED
    # After a redo it was finished before: the photo's hour counts from then, and what follows was done.
    if Order.objects.filter(pk=order.pk).move(target, finished_at=order.finished_at or now):
        mails.queue(order.pk, Mail.Kind.READY if target == OrderState.READY else Mail.Kind.FAILED, now)
        faultpoint("finish.moved")
        payments.refund_missing(order, now)
        faultpoint("finish.refunded")


@transaction.atomic
def retry_failed(order: Order, *, actor: str, now: datetime) -> int:
    """Staff: give failed shots three fresh attempts. The count of shots revived; 0 once money went back.

    Also 0 for an order that lacks nothing, and for one whose deadline has come.

    Raises Refusal("selfie_deleted") for an order whose photo is gone already.
    """
    if payments.is_refunded(order):
        return 0
    finished = Order.objects.live(now + guarantee.DEADLINE).filter(
        pk=order.pk, state__in=(OrderState.READY, OrderState.FAILED)
    )
    delivered = Shot.objects.filter(order=order, state=ShotState.DONE).count()
    if delivered >= order.headshots or not finished.exists():
        return 0
    if not finished.select_for_update().filter(selfie_shredded_at=None).exists():
        raise Refusal("selfie_deleted")
    revived = (
        Shot.objects.planned()
        .filter(order=order, state=ShotState.FAILED)
        .move(ShotState.PENDING, attempts=0, error_code="", not_before=now)
    )
    if revived:
        Order.objects.filter(pk=order.pk).move(OrderState.QUEUED, finished_at=None)
        audit.record("order.retried", actor=actor, reference=order.receipt_id, now=now, shots=revived)
        enqueue(Task.RENDER, copies=revived)
    return revived
