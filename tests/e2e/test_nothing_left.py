"""The grep test: after a deletion no file holds a picture, its name, its metadata, a token or a key.

Canaries are planted, and each process tells through a pipe what it comes to hold in clear. Whatever fault
hits on the way, every file that the service wrote is searched afterwards: database and journals, store,
broker folder, keys, checkpoints, log, its temporary folder, and the folder where a core would land.
"""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from headshots.env import ROOT
from pipelines.sample import sample_selfie
from tests.e2e.service import PATIENCE_SECONDS, running, wait_for

pytestmark = pytest.mark.slow

SIGNATURES: Final = {
    "JPEG": rb"\xff\xd8\xff[\xe0-\xef]..(JFIF|Exif|ICC_|Adobe)|\xff\xd8\xff\xdb\x00[\x43\x84]",
    "JPEG in base64": rb"/9j/4AAQSkZJRg|/9j/4[SQ]",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "HEIF": rb"ftyp(heic|heix|mif1|msf1|avif)",
}
ALL: Final = ("upload", "delete", "rest")

CASES: Final[dict[str, dict[str, Any]]] = {
    "no fault": {"is_preview": True},
    "store away in the purge": {"faults": {"delete": "purge.sweeping=raise:1"}},
    "killed after the keys were shredded": {"faults": {"delete": "purge.journal_truncated=kill"}},
    "killed in the middle of a picture's PUT": {"faults": {"upload": "file.filled=kill:3"}},
    "killed in the middle of the photo's PUT": {"faults": {"upload": "file.filled=kill:2"}},
    "killed while the root key was written": {"faults": {"upload": "file.linked=kill:1"}},
    "receipt cannot be signed": {"faults": {"delete": "receipt.signed=raise:1"}},
    "journal held open by a reader": {"reader": True},
    "disk full on the tombstone": {"faults": {"delete": "purge.entombing=raise:1"}},
    "late writer after the fence": {"late": True},
    "worker killed while rendering": {"is_preview": True, "faults": {"upload": "work.rendered=kill:2"}},
    "worker killed with a picture in the store": {"faults": {"upload": "work.written=kill"}},
}


def lived(folder: Path, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the driver says of each case, by name."""
    described = [
        {
            "name": name,
            "exif": f"canary {secrets.token_hex(12)}",
            "file_name": f"my-face-{secrets.token_hex(8)}",
            "address": f"ada-{secrets.token_hex(8)}",
            "stages": stages(case),
            **case,
        }
        for name, case in cases.items()
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.e2e.nothing_left_driver", str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=json.dumps(described),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return {case["name"]: case for case in map(json.loads, ended.stdout.splitlines())}


def stages(case: dict[str, Any]) -> tuple[str, ...]:
    """A stage that is killed in the deletion is followed by another one."""
    is_killed = "=kill" in case.get("faults", {}).get("delete", "")
    return ("upload", "delete", "again", "rest") if is_killed else ALL


def needles(told: Iterable[tuple[str, str]]) -> dict[bytes, str]:
    """Everything to look for, with what it is; keys also as text."""
    found = {}
    for label, encoded in told:
        secret = base64.b64decode(encoded)
        forms = [secret]
        if "key" in label:
            forms += [secret.hex().encode(), secret.hex().upper().encode()]
            forms += [encode(secret).rstrip(b"=") for encode in (base64.b64encode, base64.urlsafe_b64encode)]
        found |= dict.fromkeys(forms, label)
    return found


def hits(folder: Path, looked_for: dict[bytes, str]) -> list[str]:
    """Where a needle or the beginning of a picture file stands, in names and contents of all files."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        content = name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"")
        found += [f"{label} in {name}" for needle, label in looked_for.items() if needle in content]
        found += [
            f"{kind} in {name}" for kind, sign in SIGNATURES.items() if re.search(sign, content, re.DOTALL)
        ]
    return sorted(set(found))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """All cases, lived."""
    folder = tmp_path_factory.mktemp("nothing-left")
    return folder, lived(folder, {**CASES, "still alive": {"stages": ("upload",)}})


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_in_any_file(cases: tuple[Path, dict[str, dict[str, Any]]], name: str) -> None:
    folder, all_told = cases
    case = all_told[name]
    expected = [
        -9 if "=kill" in CASES[name].get("faults", {}).get(stage, "") else 0 for stage in stages(CASES[name])
    ]
    assert case["ends"] == expected, (folder / name / "service.log").read_text()[-3000:]
    looked_for = needles(case["secrets"])
    labels = set(looked_for.values())
    assert {"photo", "file-name", "epoch-key", "wrapped-epoch-key", "wrapped-order-key"} <= labels or (
        "root key" in name
    )

    assert hits(folder / name, looked_for) == []


def test_the_run_without_a_fault_told_all_there_is_to_look_for(
    cases: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    labels = {label for label, _ in cases[1]["no fault"]["secrets"]}

    assert labels == {
        *("photo", "clean-photo", "picture", "file-name", "token", "address"),
        *("order-key", "wrapped-order-key", "epoch-key", "wrapped-epoch-key"),
    }


def test_while_an_order_is_alive_its_wrapped_keys_are_all_that_is_found(
    cases: tuple[Path, dict[str, dict[str, Any]]],
) -> None:
    folder, all_told = cases
    looked_for = needles(all_told["still alive"]["secrets"])

    found = hits(folder / "still alive", looked_for)

    assert {line.partition(" in ")[0] for line in found} == {"wrapped-order-key", "wrapped-epoch-key"}
    assert len(list((folder / "still alive" / "data" / "blobs" / "o").glob("*/*"))) == 5


def test_whatever_is_planted_is_found(cases: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    """The search itself: each secret in a file of its own, and a picture as such, deep in other bytes."""
    told = cases[1]["no fault"]["secrets"]
    looked_for = needles(told)
    for number, needle in enumerate(looked_for):
        (tmp_path / f"{number}").write_bytes(os.urandom(4000) + needle + os.urandom(4000))
    (tmp_path / "picture").write_bytes(os.urandom(4000) + sample_selfie())
    (tmp_path / "picture.txt").write_bytes(base64.b64encode(sample_selfie()))

    found = hits(tmp_path, looked_for)

    assert [f"{label} in {number}" for number, label in enumerate(looked_for.values())] == [
        line
        for number, label in enumerate(looked_for.values())
        for line in [f"{label} in {number}"]
        if line in found
    ]
    assert "JPEG in picture" in found
    assert "JPEG in base64 in picture.txt" in found


def test_nothing_is_left_of_an_order_of_the_real_service(tmp_path: Path) -> None:
    """Site, broker folder, workers, scheduler as processes; a worker is killed with a picture half made."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "tmp").mkdir(mode=0o700)
    selfie = sample_selfie()
    with running(
        tmp_path / "data", LEASE_SECONDS="4", WORKER_PROCESSES="1", TMPDIR=str(tmp_path / "tmp")
    ) as service:
        order = service.client.place(selfie, tier="free")
        wait_for(lambda: service.client.order(order)["done"] >= 1)
        service.kill("--queues gpu")
        final = [*service.client.watch(order, timeout_seconds=PATIENCE_SECONDS)][-1]
        pictures = [service.client.picture(order, index) for index in (1, 2, 3)]
        receipt_id = service.client.delete(order)
        wait_for(lambda: service.client.receipt(receipt_id)["state"] == "purged")

    assert final["done"] == 3
    looked_for = {piece: "picture" for content in (selfie, *pictures) for piece in pieces(content)}
    looked_for |= {order["token"].encode(): "token", order["token"][4:-6].encode(): "token"}
    assert hits(tmp_path, looked_for) == []


def pieces(content: bytes) -> list[bytes]:
    return [content[at : at + 32] for at in range(1000, len(content) - 1000, len(content) // 8)]
