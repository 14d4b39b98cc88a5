"""What the machine, the database, the stores and the settings do to the promise.

Each finding says which sentence of the promise it threatens. What software cannot see is listed as such, so
that nobody takes silence for an answer.
"""

import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.db import connection

from headshots import process
from headshots.services import clock, incarnation, objects
from headshots.vault.errors import BadKeyFile, StoreAway, UnsafeStore

UNREADABLE: Final = (
    "Within 24 hours nobody can read your photo or your headshots, not even we with every backup."
)
DELETED: Final = "Within 24 hours everything is deleted, and the store is looked through twice."
IN_MEMORY: Final = "Your photo and the description of your face lie in clear in memory only, never on a disk."
PRIVATE: Final = "Nobody but you can open your order."
GENUINE: Final = "Your headshots are made with the models we name."
LICENSED: Final = "The premium pack comes with a full commercial licence."

MIN_FREE: Final = 0.10  # of the disk: a database that cannot write cannot record a deletion

UNSEEN: Final = (
    "that no backup or snapshot holds the data folder's keys, or the root keys beside the epoch keys",
    "that the proxy in front does not write request bodies to its disk",
    "that the disks are encrypted",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that threatens the promise, and the sentence of it."""

    check: str
    message: str
    promise: str

    def __str__(self) -> str:
        return f"{self.check}: {self.message}. It threatens: “{self.promise}”"


Check: TypeAlias = Callable[[], Iterator[tuple[str, str]]]  # (message, promise)


def examine(more: Mapping[str, Check] | None = None) -> list[Finding]:
    """Every finding of every check and of `more`; one that cannot look is a finding too. Empty is good."""
    findings: list[Finding] = []
    for name, check in {**TABLE, **(more or {})}.items():
        try:
            findings += [Finding(check=name, message=text, promise=promise) for text, promise in check()]
        except Exception as error:  # whatever it was, about this part nothing is known
            text = f"could not look ({type(error).__name__})"
            findings.append(Finding(check=name, message=text, promise=DELETED))
    return findings


def _database() -> Iterator[tuple[str, str]]:
    if connection.vendor == "sqlite":
        yield from _sqlite()
    elif (host := connection.settings_dict["HOST"]) and not _is_local(host):
        options = connection.settings_dict.get("OPTIONS", {})
        if options.get("sslmode") not in ("require", "verify-ca", "verify-full") and not _is_encrypted():
            yield f"the connection to the database at {host} is not encrypted", PRIVATE


def _sqlite() -> Iterator[tuple[str, str]]:
    expected = {"secure_delete": (1,), "journal_mode": ("wal", "delete", "memory")}
    for pragma, values in expected.items():
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA {pragma}")
            value = cursor.fetchone()[0]
        if value not in values:
            yield f"PRAGMA {pragma} is {value!r}: deleted keys stay in the file", UNREADABLE
    path = Path(str(connection.settings_dict["NAME"]))
    if path.is_file() and path.stat().st_mode & 0o077:
        yield f"{path.name} has mode {path.stat().st_mode & 0o777:04o}; others can read it", PRIVATE


def _is_encrypted() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        row = cursor.fetchone()
    return bool(row and row[0])


def _is_local(host: str) -> bool:
    return host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")


def _restore() -> Iterator[tuple[str, str]]:
    if incarnation.is_restored():
        yield incarnation.PROBLEM, UNREADABLE


def _clocks() -> Iterator[tuple[str, str]]:
    if found := clock.problem() or clock.lead_problem():
        yield f"{found}; once they are right: manage.py purge --reset-clock", DELETED


def _key_files() -> Iterator[tuple[str, str]]:
    folder = Path(settings.DATA) / "keys"
    for path in sorted(folder.iterdir()):
        if path.stat().st_mode & 0o077:
            yield (
                f"keys/{path.name} has mode {path.stat().st_mode & 0o777:04o}; others can read it",
                UNREADABLE,
            )
    root_keys = settings.ROOT_KEYS
    if settings.IS_PRODUCTION and root_keys and Path(root_keys).resolve().is_relative_to(settings.DATA):
        yield "the root keys lie in the data folder: one snapshot holds them and the epoch keys", UNREADABLE


def _stores() -> Iterator[tuple[str, str]]:
    try:
        yield from ((text, DELETED) for text in objects.blobs().weaknesses())
        objects.epochs().epochs()
    except (UnsafeStore, StoreAway, BadKeyFile) as error:
        yield str(error), DELETED


def _swap() -> Iterator[tuple[str, str]]:
    areas = Path("/proc/swaps").read_text().splitlines()[1:]
    if areas:
        yield f"swap is on ({len(areas)} areas): memory may be written to disk", IN_MEMORY


def _core_dumps() -> Iterator[tuple[str, str]]:
    process.harden()
    if not process.is_hardened():
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
        limit = resource.getrlimit(resource.RLIMIT_CORE)[0]
        yield f"memory can be dumped (core_pattern {pattern!r}, limit {limit})", IN_MEMORY


def _scratch() -> Iterator[tuple[str, str]]:
    folder = Path(tempfile.gettempdir()).resolve()
    if filesystem_of(folder, Path("/proc/self/mounts").read_text()) not in ("tmpfs", "ramfs"):
        yield f"temporary files go to a disk ({folder}); set TMPDIR to a tmpfs", IN_MEMORY


def filesystem_of(folder: Path, mounts: str) -> str:
    """The type of the file system that `folder` lies in, by the kernel's table of mounts; "" for none."""
    best, found = "", ""
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if folder.is_relative_to(place) and len(place) >= len(best):  # a later mount hides an earlier one
            best, found = place, kind
    return found


def _free_space() -> Iterator[tuple[str, str]]:
    usage = shutil.disk_usage(settings.DATA)
    if usage.free < MIN_FREE * usage.total:
        share = 100 * usage.free // usage.total
        yield f"only {share} % of the data folder's disk is free: deletions could not be recorded", DELETED


def _django() -> Iterator[tuple[str, str]]:
    """Django's own checks and ours, but for licences: the command looks at those with the weights."""
    for message in checks.run_checks(include_deployment_checks=settings.IS_PRODUCTION):
        is_told_below = message.id in ("headshots.E005", "headshots.W005")
        if message.level >= checks.WARNING and not message.is_silenced() and not is_told_below:
            yield f"{message.id}: {message.msg}", PRIVATE
    if settings.DEBUG:
        yield "HEADSHOTS_DEBUG shows settings and variables to whoever causes an error", PRIVATE


def _redis() -> Iterator[tuple[str, str]]:
    """The broker's; the epoch store looks at its own when it connects."""
    address = urlsplit(settings.BROKER_URL)
    if address.scheme not in ("redis", "rediss"):
        return
    from redis import Redis  # only where one is used: the purge must not even import it

    with Redis.from_url(settings.BROKER_URL, socket_timeout=5, socket_connect_timeout=5) as redis:
        found: dict[str, Any] = {}
        for name in ("save", "appendonly", "maxmemory-policy"):
            found |= redis.config_get(name)
    if found["save"] or found["appendonly"] != "no":
        yield "the broker writes its messages to disk; set save '' and appendonly no", DELETED
    if found["maxmemory-policy"] != "noeviction":
        yield f"the broker may drop messages ({found['maxmemory-policy']}); set noeviction", DELETED
    if not _is_local(address.hostname or "") and (address.scheme != "rediss" or not address.password):
        yield "the broker is reached without TLS or without a password", PRIVATE


TABLE: Final[Mapping[str, Check]] = {
    "database": _database,
    "restore": _restore,
    "clocks": _clocks,
    "key files": _key_files,
    "stores": _stores,
    "swap": _swap,
    "core dumps": _core_dumps,
    "scratch": _scratch,
    "free space": _free_space,
    "django": _django,
    "broker": _redis,
}
