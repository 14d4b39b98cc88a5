"""One order's whole life per case, under a fault, in processes whose every file lies in the case's folder.

    python -m tests.e2e.nothing_left_driver FOLDER < cases

reads a JSON list of {"name", "file_name", "exif", "stages", "faults", ...} and writes a JSON line for each:
what must not be found in any file afterwards. That touches no disk on its way: it comes through pipes. The
upload goes through the site's own request handling, its decoder is a confined process, and where a case says
"is_preview" the pictures are the preview engine's. A case's processes are forks of a parent that has imported
everything.
"""

import base64
import io
import json
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import django
from PIL import Image

LANES: Final = 2
SHOTS: Final = 2
SLICE: Final = 32  # bytes of a picture that no other file holds by chance
SLICES: Final = 6
BLOCK: Final = 96  # pixels; noise that no other picture has


# --- what must not be found ---------------------------------------------------------------------------------


def tell(pipe: int, label: str, *secrets: bytes) -> None:
    """Report secrets as soon as they exist: the process may be killed at any moment."""
    for secret in secrets:
        os.write(pipe, f"{label} {base64.b64encode(secret).decode()}\n".encode())


def slices(content: bytes) -> list[bytes]:
    """Some pieces out of the second half of a picture file, which is all pixels; none that is padding."""
    half = len(content) // 2
    step = (half - SLICE) // SLICES
    pieces = [content[half + step * number :][:SLICE] for number in range(SLICES)]
    return [piece for piece in pieces if len(set(piece)) > SLICE // 2]


def rows(jpeg: bytes) -> list[bytes]:
    """Pieces of the noise block as it lies in memory, from the decoded picture."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        block = picture.convert("RGB").crop((8, 8, BLOCK, BLOCK))
    return [block.crop((0, y, block.width, y + 1)).tobytes()[:SLICE] for y in range(0, BLOCK - 8, 20)]


def photo(exif: str) -> bytes:
    """The sample portrait with a block of noise in a corner and a text in its metadata."""
    from pipelines.sample import sample_selfie

    with Image.open(io.BytesIO(sample_selfie())) as sample:
        picture = sample.convert("RGB")
    picture.paste(Image.frombytes("RGB", (BLOCK, BLOCK), os.urandom(BLOCK * BLOCK * 3)), (0, 0))
    data = Image.Exif()
    data[0x010E] = data[0x8298] = exif  # ImageDescription, Copyright
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, exif=data)
    return out.getvalue()


def _spy(pipe: int) -> None:
    """Tell every key and every picture that this process comes to hold in clear."""
    from headshots.services import objects, shots, uploads
    from headshots.vault import cache
    from headshots.vault.keys import RootRing

    def told(
        function: Callable[..., Any], label: str, cut: Callable[[Any], list[bytes]]
    ) -> Callable[..., Any]:
        def spied(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            tell(pipe, label, *cut(result))
            return result

        return spied

    cache.open_order_key = told(cache.open_order_key, "order-key", lambda key: [bytes(key)])
    RootRing.unwrap = told(RootRing.unwrap, "epoch-key", lambda key: [bytes(key)])  # type: ignore[method-assign]
    RootRing.wrap = told(RootRing.wrap, "wrapped-epoch-key", lambda key: [bytes(key)])  # type: ignore[method-assign]
    objects.new_order_key = told(objects.new_order_key, "wrapped-order-key", lambda key: [bytes(key)])
    uploads.clean = told(uploads.clean, "clean-photo", lambda jpeg: slices(jpeg) + rows(jpeg))
    commit = shots.commit

    def commit_told(claimed: Any, finished: Any, now: Any) -> Any:
        tell(pipe, "picture", *slices(finished.jpeg), *slices(finished.preview_jpeg))
        return commit(claimed, finished, now)

    shots.commit = commit_told


# --- the stages ---------------------------------------------------------------------------------------------


def upload(case: dict[str, Any], pipe: int) -> None:
    """A browser's upload through the site's request handling, then the workers' part, then the downloads."""
    from django.core import mail
    from django.core.files.uploadedfile import SimpleUploadedFile
    from django.test import Client

    from headshots import tasks
    from headshots.models import Order
    from tests.e2e import small_service as service

    raw = photo(case["exif"])
    tell(pipe, "photo", *slices(raw), *rows(raw), case["exif"].encode(), case["exif"].encode("utf-16-le"))
    tell(pipe, "file-name", case["file_name"].encode())
    tell(pipe, "address", case["address"].encode())
    sent = SimpleUploadedFile(f"{case['file_name']}.jpg", raw, content_type="image/jpeg")
    answer = Client(headers={"Host": "localhost"}).post(
        "/api/v1/orders",
        {"tier": "free", "consent": "true", "selfie": sent, "email": f"{case['address']}@example.org"},
    )
    assert answer.status_code == 201, answer.content
    token = answer.json()["token"]
    tell(pipe, "token", token.encode(), token[4:-6].encode())
    service.note(Path(case["token_file"]), token)
    service.work()
    service.advance(timedelta(seconds=30))
    tasks.sweep()
    service.work()
    subjects = {each.subject for each in mail.outbox}
    assert subjects == {"Your headshots: order placed", "Your headshots are ready"}
    assert all(len(service.pictures(order)) == 2 * SHOTS for order in Order.objects.all())


def delete(case: dict[str, Any], pipe: int) -> None:
    """The customer deletes, if there is an order to delete, and everything comes to rest."""
    from headshots import tasks
    from headshots.services import clock, farewells
    from tests.e2e import small_service as service

    for _ in range(2):  # what the dead left is taken up
        service.advance(timedelta(seconds=130))
        tasks.sweep()
        service.work()
    with _reader() if case.get("reader") else closing(io.BytesIO()):
        _ask_to_delete(case)
        for _ in range(4):
            service.advance(timedelta(seconds=130))
            tasks.purge_due()
            farewells.deliver(clock.now())
    if case.get("late"):
        _write_late()
    for hours in (0, 1, 24, 26):
        service.advance(timedelta(hours=hours, seconds=130))
        tasks.sweep()
        tasks.purge_due()


def _ask_to_delete(case: dict[str, Any]) -> None:
    from django.test import Client

    from headshots.models import Order
    from headshots.services import objects

    for order in Order.objects.filter(state__in=("ready", "failed")):
        token = Path(case["token_file"]).read_text().strip()
        customer = Client(headers={"Host": "localhost", "Authorization": f"Bearer {token}"})
        answer = customer.delete(f"/api/v1/orders/{order.pk}")
        assert answer.status_code == 202, answer.content
        if case.get("late"):
            objects.blobs().put(f"o/{order.pk.hex}/{os.urandom(16).hex()}", os.urandom(5000))


def _write_late() -> None:
    """A worker that slept through everything: its claim is void, its picture has no row."""
    from headshots.exceptions import NotFound
    from headshots.models import Order
    from headshots.services import clock, objects
    from headshots.vault.envelope import Kind

    for order in Order.objects.all():
        try:
            objects.intend(order, Kind.HEADSHOT, 1, clock.now())
        except NotFound:
            continue
        raise AssertionError("a purged order lets itself be written to")


@contextmanager
def _reader() -> Iterator[None]:
    """Somebody reads the database all the while, so that its journal cannot be cut off."""
    from django.conf import settings

    with closing(sqlite3.connect(settings.DATA / "headshots.sqlite3", isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM headshots_order").fetchone()
        yield


def rest(case: dict[str, Any], pipe: int) -> None:
    """Fails unless every order is purged with a receipt, and the inspection finds nothing."""
    from tests.e2e import verdict

    wrong = verdict.unpurged() + verdict.leftovers("") + verdict.leftover_keys() + verdict.inspected()
    assert wrong == [], wrong


STAGES: Final = {"upload": upload, "delete": delete, "again": delete, "rest": rest}


# --- processes ----------------------------------------------------------------------------------------------


def _case(template: Path, base: Path, case: dict[str, Any]) -> dict[str, Any]:
    folder = base / case["name"]
    for part in ("tmp", "cwd"):
        (folder / part).mkdir(parents=True, mode=0o700)
    shutil.copytree(template, folder / "data")
    case["token_file"] = str(base / f"{case['name']}.token")  # the customer's memory, not the service's
    secrets: list[tuple[str, str]] = []
    ends = []
    for stage in case["stages"]:
        fault = case.get("faults", {}).get(stage, "")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _stage(folder, case, stage, fault, writing)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            secrets += [tuple(line.split()) for line in pipe.read().splitlines()]
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return {"name": case["name"], "ends": ends, "secrets": secrets}


def _stage(folder: Path, case: dict[str, Any], stage: str, fault: str, pipe: int) -> None:
    """In the child: everything it may write to is below `folder`."""
    status = 1
    try:
        log = os.open(folder / "service.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder / "cwd")  # where a core would land
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        _open(folder / "data", fault, pipe, is_preview=case.get("is_preview", False))
        STAGES[stage](case, pipe)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _open(data: Path, fault: str, pipe: int, *, is_preview: bool) -> None:
    from django.conf import settings

    from headshots import faults, process, tasks
    from headshots.celery import app
    from headshots.hints import carry_by
    from tests.e2e import small_service as service

    service.use(data)
    queue = str(data / "queue")
    (data / "queue" / "control").mkdir(parents=True, exist_ok=True)
    app.conf.broker_transport_options = {
        "data_folder_in": queue,
        "data_folder_out": queue,
        "control_folder": f"{queue}/control",
    }

    def send(task: Any, ids: tuple[str, ...], copies: int) -> None:
        app.tasks[task].apply_async(args=ids)
        service.hint(task, ids)

    carry_by(send)
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # or the limit of the shell would hide a core
    process.harden()
    if not is_preview:
        tasks._engine = service.PatternEngine
    _spy(pipe)
    os.environ[faults.VARIABLE] = fault
    faults.read_environment()


def main() -> None:
    base = Path(sys.argv[1])
    cases = json.load(sys.stdin)
    os.environ["HEADSHOTS_DATA"] = str(base / "imported")
    os.environ["PURGE_SETTLE_SECONDS"] = "30"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "headshots.settings")
    django.setup()
    from headshots import tasks, urls  # noqa: F401 (so that no child imports them)
    from headshots.tiers import TIERS
    from tests.e2e import small_service, verdict  # noqa: F401
    from tests.e2e.faults_driver import forked

    TIERS["free"] = replace(TIERS["free"], headshots=SHOTS, long_edge=96)
    tasks._engine()
    tasks._assessor()
    if forked(lambda: small_service.prepare(base / "template"), base / "prepared"):
        raise SystemExit("the template could not be made")
    lanes = []
    for number in range(LANES):
        lane = os.fork()
        if not lane:
            for case in cases[number::LANES]:
                line = json.dumps(_case(base / "template", base, case)) + "\n"
                sys.stdout.write(line)
                sys.stdout.flush()
            os._exit(0)
        lanes.append(lane)
    for lane in lanes:
        os.waitpid(lane, 0)


if __name__ == "__main__":
    main()
