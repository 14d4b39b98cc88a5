"""manage.py weights: list, fetch, check and convert the engine's weights, or make tiny ones.

The only part of the project that downloads anything, and only when a person asks for it. torch is imported by
`convert` and `tiny` alone.
"""

import http.client
import io
import json
import os
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pipelines.errors import PipelineError
from pipelines.weights import (
    CHOICES,
    KEYS,
    MANIFEST,
    Locked,
    WeightFile,
    convert,
    digest,
    not_chosen,
    read_lock,
    verify,
    write_lock,
)

HOSTS: Final = {
    "hub": "https://huggingface.co/{repository}/resolve/{revision}/{source}",
    "release": "https://github.com/{repository}/releases/download/{revision}/{source}",
}
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
TIMEOUT_SECONDS: Final = 60
BLOCK_BYTES: Final = 1 << 20

Report = Callable[[int, int | None], None]
"""Called with the bytes there are so far and, if known, how many there will be."""


class Command(BaseCommand):
    help = "The weights of the InstantID engine: list, fetch, verify, convert, or make tiny ones."
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|fetch|verify|convert|tiny")
        listing = verbs.add_parser("list", help="what there is, from where, and under which licence")
        listing.add_argument("--json", action="store_true", help="every file as one JSON document")
        fetch = verbs.add_parser("fetch", help="download into DIR; run again to continue")
        fetch.add_argument("dir", type=Path)
        for name, keys in CHOICES.items():
            usual = f"default: the one there, or {keys[0]}"
            fetch.add_argument(f"--{name}", choices=keys, help=f"which model to take as {name} ({usual})")
        fetch.add_argument(
            "--only", action="append", choices=KEYS, help="repeat for several; the way to optional ones"
        )
        fetch.add_argument(
            "--accept", action="append", default=[], choices=KEYS, help="accept the licence of this model"
        )
        fetch.add_argument("--mirror", help="https address that serves REPOSITORY/REVISION/FILE")
        check = verbs.add_parser("verify", help="compare DIR with its lock and the published hashes")
        check.add_argument("dir", type=Path)
        check.add_argument("--quick", action="store_true", help="compare sizes only")
        check.add_argument("--json", action="store_true", help="one JSON document")
        conversion = verbs.add_parser("convert", help="turn fetched .bin and .pth files into safetensors")
        conversion.add_argument("dir", type=Path, help="a bundle, or one file")
        conversion.add_argument("target", type=Path, nargs="?", help="for one file (default: beside it)")
        tiny = verbs.add_parser("tiny", help="write a bundle of random weights for tests into DIR")
        tiny.add_argument("dir", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        verb: str = options["verb"]
        try:
            getattr(self, f"_{verb}")(options)
        except PipelineError as error:
            raise CommandError(str(error), returncode=1) from None
        except OSError as error:
            raise CommandError(f"{error.filename or options.get('dir')}: {error.strerror or error}") from None

    def _list(self, options: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps([asdict(file) for file in MANIFEST], indent=1))
            return
        table = Table("key", "what it does", "from", "size", "pinned", "licence", "paid service?")
        for key in dict.fromkeys(file.key for file in MANIFEST):
            files = [file for file in MANIFEST if file.key == key]
            known = sum(file.size_bytes or 0 for file in files)
            pinned = sum(file.sha256 is not None for file in files)
            only = f" (optional: fetch --only {key})" if files[0].is_optional else ""
            table.add_row(
                key,
                files[0].purpose + only,
                f"{files[0].repository}@{files[0].revision[:10]}",
                f"{known / 1e6:,.0f} MB" if known else "not known",
                f"{pinned}/{len(files)}",
                files[0].licence,
                files[0].commercial,
            )
        text = io.StringIO()
        Console(file=text, width=160).print(table)
        self.stdout.write(text.getvalue())

    def _fetch(self, options: dict[str, Any]) -> None:
        folder: Path = options["dir"]
        folder.mkdir(parents=True, exist_ok=True)
        files = _wanted(folder, {options[name] for name in CHOICES}, options["only"])
        lock = read_lock(folder)
        units = [unit for unit in _units(files) if not all(_is_there(folder, file, lock) for file in unit)]
        known = {(entry.key, entry.licence) for entry in lock.values()}
        earlier = {file.key for file in files if (file.key, file.licence) in known}
        self._accept([file for unit in units for file in unit], earlier | set(options["accept"]))
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            for unit in units:
                task = progress.add_task(unit[0].source, total=None)

                def report(done: int, total: int | None, task: Any = task) -> None:
                    progress.update(task, completed=done, total=total)

                entries = fetch_unit(folder, unit, options["mirror"], report)
                lock = read_lock(folder) | entries
                write_lock(folder, lock)
                for name, entry in entries.items():
                    self.stdout.write(f"{name}  {entry.size_bytes} bytes  sha256 {entry.sha256}")
        if not units:
            self.stdout.write("Everything is there.")
        if any(_unconverted(folder, file, lock) for file in files):
            self.stdout.write(f"Next: python manage.py weights convert {folder}")

    def _accept(self, files: Sequence[WeightFile], accepted: set[str]) -> None:
        """Ask for each licence before the first byte is fetched. Exit code 2 when one is refused."""
        open_questions = {file.key: file for file in files if file.key not in accepted}
        about = {key: _licence(file) for key, file in open_questions.items()}
        if about and not sys.stdin.isatty():
            flags = " ".join(f"--accept {key}" for key in about)
            raise CommandError(
                "\n".join([*about.values(), f"Nothing was fetched. To accept: {flags}"]), returncode=2
            )
        for key, text in about.items():
            if input(f"{text} Accept? [yes/no] ").strip().lower() != "yes":
                raise CommandError(f"Licence of {key} not accepted; nothing was fetched.", returncode=2)

    def _verify(self, options: dict[str, Any]) -> None:
        verdicts = verify(options["dir"], check_hashes=not options["quick"], manifest=MANIFEST)
        if options["json"]:
            self.stdout.write(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
        else:
            for verdict in verdicts:
                self.stdout.write(f"{verdict.state:11}  {verdict.path}  {verdict.detail}")
        bad = sum(verdict.state != "ok" for verdict in verdicts)
        if bad:
            raise CommandError(f"{bad} of {len(verdicts)} files are not in order", returncode=1)

    def _convert(self, options: dict[str, Any]) -> None:
        source: Path = options["dir"]
        if source.is_file():
            target = options["target"] or source.with_suffix(".safetensors")
            convert(source, target)
            self.stdout.write(f"{target}  {target.stat().st_size} bytes")
            return
        if not source.is_dir():
            raise CommandError(f"{source} is neither a bundle nor a file")
        for file in MANIFEST:
            if _unconverted(source, file, read_lock(source)):
                entry = convert_fetched(source, file)
                self.stdout.write(f"{file.path}  {entry.size_bytes} bytes  sha256 {entry.sha256}")

    def _tiny(self, options: dict[str, Any]) -> None:
        folder: Path = options["dir"]
        if any(entry.licence for entry in read_lock(folder).values()):
            raise CommandError(f"{folder} holds real weights; choose another folder", returncode=2)
        from pipelines.instantid.tiny import make_tiny_bundle  # torch: only where it is used

        make_tiny_bundle(folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self.stdout.write(f"{folder}  {size / 1e6:.1f} MB of random weights")


def _licence(file: WeightFile) -> str:
    said = "unclear, ask its authors" if file.commercial == "ask" else file.commercial
    return f"{file.key} ({file.repository}): {file.licence}. In a paid service: {said}."


def _wanted(folder: Path, asked: Collection[str | None], only: Sequence[str] | None) -> list[WeightFile]:
    if only:
        for name, keys in CHOICES.items():
            if len(set(only) & set(keys)) > 1:
                raise CommandError(f"a bundle holds one {name}: {' or '.join(keys)}", returncode=2)
        return [file for file in MANIFEST if file.key in only]
    there = [entry.key for entry in read_lock(folder).values()]
    left_out = not_chosen([*(key for key in asked if key), *there])
    return [file for file in MANIFEST if not file.is_optional and file.key not in left_out]


def _units(files: Sequence[WeightFile]) -> list[list[WeightFile]]:
    """Files grouped by download: an archive serves all its members at once."""
    units: dict[tuple[str, str, str], list[WeightFile]] = {}
    for file in files:
        units.setdefault((file.repository, file.revision, file.source), []).append(file)
    return list(units.values())


def _is_there(folder: Path, file: WeightFile, lock: dict[str, Locked]) -> bool:
    """Whether the file, or what it was converted to, is in place as recorded and published, byte by byte.

    Every byte is read (half a minute for real weights): sizes would pass a file over that `verify` calls
    altered, and so would a lock that disagrees with the published hash.
    """
    return any(_is_as_recorded(folder, file, name, lock.get(name)) for name in {file.path, file.fetched_path})


def _is_as_recorded(folder: Path, file: WeightFile, name: str, entry: Locked | None) -> bool:
    path = folder / name
    if entry is None or entry.key != file.key or not path.is_file():
        return False
    is_published = name != file.fetched_path or file.sha256 in (None, entry.sha256)
    return is_published and path.stat().st_size == entry.size_bytes and digest(path) == entry.sha256


def _unconverted(folder: Path, file: WeightFile, lock: dict[str, Locked]) -> bool:
    fetched = lock.get(file.fetched_path)
    is_of_another = fetched is not None and fetched.key != file.key
    return file.is_pickle and not is_of_another and (folder / file.fetched_path).is_file()


def convert_fetched(folder: Path, file: WeightFile) -> Locked:
    """Convert a fetched pickle in place: the safetensors takes its place in the folder and in the lock.

    Raises CommandError when the pickle is not the one that was fetched, Final as `convert` does.
    """
    lock, source, target = read_lock(folder), folder / file.fetched_path, folder / file.path
    fetched = lock.get(file.fetched_path)
    if fetched is None or digest(source) != fetched.sha256:
        raise CommandError(
            f"{source} is not what was fetched; it {file.purpose}. Delete it, then: "
            f"python manage.py weights fetch {folder} --only {file.key}",
            returncode=1,
        )
    convert(source, target)
    entry = _entry(file, target, fetched.licence)
    del lock[file.fetched_path]
    write_lock(folder, lock | {file.path: entry})
    source.unlink()
    return entry


def _entry(file: WeightFile, path: Path, licence: str) -> Locked:
    return Locked(key=file.key, size_bytes=path.stat().st_size, sha256=digest(path), licence=licence)


def fetch_unit(
    folder: Path, files: Sequence[WeightFile], mirror: str | None, report: Report
) -> dict[str, Locked]:
    """Download one file, or one archive with all its members, into the bundle; the lock's new entries.

    Raises CommandError; what was downloaded is kept for the next try, unless it is wrong.
    """
    first = files[0]
    url = _address(first, mirror)
    place = folder / (first.source if first.member else first.fetched_path)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{first.key}.part")
    download(url, partial, None if first.member else first.size_bytes, report)
    if not first.member:
        return {first.fetched_path: _settle(first, partial, place)}
    entries = {}
    try:
        with zipfile.ZipFile(partial) as archive:
            for file in files:
                target = folder / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                unpacked = target.with_name(f"{target.name}.{file.key}.part")
                with archive.open(str(file.member)) as source, unpacked.open("wb") as sink:
                    shutil.copyfileobj(source, sink, BLOCK_BYTES)
                entries[file.path] = _settle(file, unpacked, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CommandError(
            f"{first.source} from {first.repository} is damaged ({error}); it was deleted"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return entries


def _settle(file: WeightFile, partial: Path, target: Path) -> Locked:
    """Check a finished download against the manifest and move it to its place."""
    entry = _entry(file, partial, file.licence)
    if file.size_bytes is not None and entry.size_bytes != file.size_bytes:
        wrong = f"{entry.size_bytes} bytes instead of {file.size_bytes}"
    elif file.sha256 is not None and entry.sha256 != file.sha256:
        wrong = f"sha256 {entry.sha256} instead of {file.sha256}"
    else:
        os.replace(partial, target)
        return entry
    partial.unlink()
    raise CommandError(
        f"{file.path} ({file.purpose}) from {file.repository} has {wrong}; it was deleted", returncode=1
    )


def _address(file: WeightFile, mirror: str | None) -> str:
    template = f"{mirror.rstrip('/')}/{{repository}}/{{revision}}/{{source}}" if mirror else HOSTS[file.host]
    url = template.format(repository=file.repository, revision=file.revision, source=file.source)
    _require_safe(url)
    return url


def _require_safe(url: str) -> None:
    """Only https, also after a redirect; plain http to this very machine is a local mirror."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise CommandError(f"weights come over https only, not from {parts.scheme}://{parts.hostname}")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, partial: Path, size_bytes: int | None, report: Report) -> None:
    """Bring `partial` to its full length, continuing where it ends. Raises CommandError, `partial` kept."""
    start = partial.stat().st_size if partial.exists() else 0
    if size_bytes is not None and start > size_bytes:
        partial.unlink()
        start = 0
    if start and start == size_bytes:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_SECONDS) as response:
            total = _write(response, partial, start, report)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
            return  # complete already, only its size was not known
        raise CommandError(f"{url}: {error.code} {error.reason}", returncode=1) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise CommandError(f"{url}: {reason}; run the command again to continue", returncode=1) from None
    done = partial.stat().st_size
    if total is not None and done < total:
        raise CommandError(
            f"{url}: ended at {done} of {total} bytes; run the command again to continue", returncode=1
        )


def _write(response: Any, partial: Path, start: int, report: Report) -> int | None:
    """Append a partial answer, or start anew with a full one; the length that the file should get."""
    is_rest = response.status == 206 and response.headers.get("Content-Range", "").startswith(
        f"bytes {start}-"
    )
    done = start if is_rest else 0
    length = response.headers.get("Content-Length")
    total = done + int(length) if length else None
    with partial.open("ab" if is_rest else "wb") as file:
        while block := response.read(BLOCK_BYTES):
            file.write(block)
            done += len(block)
            report(done, total)
    return total
