"""Lives the service's whole life in a process that is killed at a point, then lets another one recover.

    python -m tests.e2e.faults_driver FOLDER < cases

reads cases, a JSON list of {"point", "hit"} and perhaps "rounds" of recovery, and writes one JSON line for
each. Both processes of a case are forks of a parent that has imported everything, and their data folder is a
copy of one that was migrated once.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import django

LANES: Final = 2
ROUNDS: Final = 12
PAUSE: Final = timedelta(seconds=130)  # longer than a lease, and than an upload may take
NO_FAULT: Final = "file.linked=kill:999999"  # counts the hits of all points and stops at none


def live(folder: Path) -> None:
    """Everything the service does, from the first upload to the last tombstone's end."""
    from headshots import tasks
    from headshots.models import Order
    from headshots.services import clock, objects, purge
    from tests.e2e import small_service as service

    provider = folder / "provider"
    early = service.place()
    service.pay(early, provider)  # while its photo waits to be looked at
    service.work()
    late = service.place(raw=service.photo(service.LUCKY_EDGE))
    service.work()
    service.pay(late, provider)
    service.work()
    service.pay(service.place(raw=service.photo(service.FACELESS_EDGE)), provider)
    service.work()
    _until_idle(2)
    for order in (early, late):
        service.pictures(Order.objects.get(pk=order.pk))
    service.advance(timedelta(minutes=61))
    tasks.purge_due()
    purge.request(Order.objects.get(pk=early.pk), actor="customer", now=clock.now())
    objects.blobs().put(f"o/{early.pk.hex}/{early.pk.hex}", b"a zombie's picture")
    _until_idle(3)
    _leave_in_the_middle(service.place(), provider)
    service.advance(timedelta(hours=25))
    _until_idle(3)
    service.advance(timedelta(hours=50))
    tasks.purge_due()


def _leave_in_the_middle(order: Any, provider: Path) -> None:
    """A customer deletes between a worker's last look and its commit: what it wrote comes too late."""
    from headshots import tasks
    from headshots.models import Order, Shot
    from headshots.services import claiming, clock, objects, purge, shots
    from headshots.vault.envelope import Kind
    from tests.e2e import small_service as service

    tasks.assess(str(order.pk))
    service.pay(order, provider)
    claimed = claiming.claim("worker", 1, clock.now())[0]
    put = objects.put

    def put_and_delete(stored: Any, plaintext: bytes, now: Any) -> None:
        put(stored, plaintext, now)
        if stored.kind == Kind.PREVIEW:
            purge.request(Order.objects.get(pk=order.pk), actor="customer", now=now)

    objects.put = put_and_delete
    finished = service.finished(str(claimed.shot.pk), claimed.seeds[0], 64)
    try:
        assert not shots.commit(claimed, finished, clock.now())
    finally:
        objects.put = put
    assert not Shot.objects.filter(order=order, state="done").exists()


def _until_idle(rounds: int) -> None:
    """What beat and the maintenance threads do, for a few rounds of two minutes."""
    from headshots import tasks
    from tests.e2e import small_service as service

    for _ in range(rounds):
        service.advance(PAUSE)
        tasks.sweep()
        service.work()
        tasks.purge_due()
        service.work()


def recover(folder: Path, rounds: int) -> dict[str, Any]:
    """What a new process makes of what a killed one left, and everything that is wrong in the end.

    It goes on for `rounds` rounds at most, before and after the customers have deleted.
    """
    from headshots.models import Order
    from tests.e2e import small_service as service
    from tests.e2e import verdict

    found = verdict.describe()
    for reference in service.unanswered(folder / "provider"):
        service.deliver_event(reference)
    problems = []
    taken = _rounds_until(lambda: not verdict.unfinished(), rounds)
    problems += [f"after {taken} rounds: {line}" for line in verdict.unfinished()]
    problems += verdict.wrong_deliveries(folder / "diary")
    for order in Order.objects.filter(state__in=("ready", "failed")):
        _delete(order)
    service.advance(timedelta(hours=24))
    _rounds_until(lambda: not verdict.unpurged(), rounds)
    problems += verdict.unpurged() + verdict.leftovers("o/") + verdict.inspected()
    problems += verdict.wrong_refunds()
    service.advance(timedelta(hours=50))
    _rounds_until(lambda: not verdict.leftovers(""), rounds)
    problems += verdict.leftovers("") + verdict.inspected() + verdict.leftover_keys()
    return {"found": found, "end": verdict.describe(), "rounds": taken, "problems": problems}


def _delete(order: Any) -> None:
    from headshots.services import clock, purge

    purge.request(order, actor="customer", now=clock.now())


def _rounds_until(is_done: Callable[[], bool], limit: int) -> int:
    for count in range(1, limit + 1):
        _until_idle(1)
        if is_done():
            return count
    return limit


# --- processes ----------------------------------------------------------------------------------------------


def forked(body: Callable[[], Any], answer: Path) -> int:
    """Run `body` in a child; its JSON answer lands in `answer`. The child's wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        answer.write_text(json.dumps(body()))
        status = 0
    except BaseException:
        traceback.print_exc()
        status = 1
    os._exit(status)


def _case(template: Path, base: Path, point: str, hit: int, rounds: int) -> dict[str, Any]:
    """Kill one process at the point, let another recover; the row of the matrix."""
    folder = base / f"{point}-{hit}"
    shutil.copytree(template, folder / "data")
    fault = f"{point}=kill:{hit}" if point else NO_FAULT
    killed = forked(lambda: _life(folder, fault), folder / "life.json")
    row: dict[str, Any] = {"point": point, "hit": hit, "killed": killed == signal.SIGKILL}
    if not point:
        row["hits"] = json.loads((folder / "life.json").read_text())
    if forked(lambda: _recovery(folder, rounds), folder / "recovery.json"):
        row["problems"] = ["the recovery itself failed"]
    else:
        row |= json.loads((folder / "recovery.json").read_text())
    if not row["problems"]:
        shutil.rmtree(folder)
    return row


def _life(folder: Path, fault: str) -> dict[str, int]:
    from django.conf import settings

    from headshots import faults
    from tests.e2e import small_service as service

    service.use(folder / "data")
    service.furnish(folder / "diary")
    if fault.startswith("heartbeat."):
        settings.LEASE_SECONDS = 0.2
        service.WAIT_FOR_HEARTBEAT.set()
    os.environ[faults.VARIABLE] = fault
    faults.read_environment()
    live(folder)
    return faults.hits()


def _recovery(folder: Path, rounds: int) -> dict[str, Any]:
    from tests.e2e import small_service as service

    service.use(folder / "data")
    service.furnish(folder / "diary")
    return recover(folder, rounds)


def _lane(template: Path, base: Path, cases: Sequence[dict[str, Any]]) -> None:
    for case in cases:
        row = _case(template, base, case["point"], case["hit"], case.get("rounds", ROUNDS))
        os.write(1, json.dumps(row).encode() + b"\n")


def main() -> None:
    base = Path(sys.argv[1])
    base.mkdir(exist_ok=True)
    cases = json.load(sys.stdin)
    os.environ["HEADSHOTS_DATA"] = str(base / "imported")
    os.environ["PURGE_SETTLE_SECONDS"] = "30"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
    django.setup()
    from tests.e2e import small_service, verdict  # noqa: F401 (so that no child imports anything)

    if forked(lambda: small_service.prepare(base / "template"), base / "prepared"):
        raise SystemExit("the template could not be made")
    lanes = []
    for number in range(LANES):
        lane = os.fork()
        if not lane:
            _lane(base / "template", base, cases[number::LANES])
            os._exit(0)
        lanes.append(lane)
    for lane in lanes:
        os.waitpid(lane, 0)


if __name__ == "__main__":
    main()
