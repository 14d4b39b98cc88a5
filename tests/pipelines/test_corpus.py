"""Every file of the corpus through the sandbox: the one right verdict, bounded cost, nothing left of it.

`pytest -s tests/pipelines/test_corpus.py` prints the table of verdicts.
"""

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import pytest

from pipelines import images, sandbox
from pipelines.errors import PipelineError, Refused
from pipelines.faces import the_one_face
from pipelines.types import Pixels
from tests.pipelines.corpus import ACCEPTED, ELSEWHERE, FILES, Case
from tests.pipelines.corpus_files import MARKER

pytestmark = pytest.mark.slow

MAX_SECONDS: Final = 10
MAX_KILOBYTES: Final = 1024 * 1024
CLEAN_SEGMENTS: Final = (0xD8, 0xE0, 0xDB, 0xC0, 0xC4, 0xDA, 0xD9)  # start, JFIF, tables, frame, scan, end


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines of the verdict table, printed at the end."""
    lines: list[str] = []
    yield lines
    lines += [f"{case.number:>3}  {case.name:<48} {case.verdict}; {case.held_by}" for case in ELSEWHERE]
    print("\n" + "\n".join(lines))  # noqa: T201


class Unpolled(subprocess.Popen[bytes]):
    """Leaves it to wait() to collect the child: the usual kill() may do so first, and drops its cost."""

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[resource.struct_rusage]:
    """What every child cost. Its memory mark is at least its parent's: exec inherits that."""
    costs: list[resource.struct_rusage] = []

    def waited(pid: int, options: int) -> tuple[int, int]:
        found, status, cost = os.wait4(pid, options)
        if found:
            costs.append(cost)
        return found, status

    monkeypatch.setattr(os, "waitpid", waited)
    monkeypatch.setattr(subprocess, "Popen", Unpolled)
    return costs


def parent() -> tuple[object, ...]:
    """All of this process that a decoder could have spoiled, had it run here."""
    names = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
    limits = [resource.getrlimit(name) for name in names]
    return len(os.listdir("/proc/self/fd")), dict(os.environ), os.getcwd(), threading.active_count(), limits


def is_bare(jpeg: bytes) -> bool:
    """Whether a JPEG is pixels, their tables and a plain JFIF header, and ends where its picture ends."""
    at, kinds = 2, {0xD8}
    while (kind := jpeg[at + 1]) != 0xDA:
        kinds.add(kind)
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    is_one_scan = jpeg.count(b"\xff\xd9") == jpeg.count(b"\xff\xda") == 1
    return kinds <= set(CLEAN_SEGMENTS) and is_one_scan and jpeg.endswith(b"\xff\xd9")


def in_order(case: Case) -> object:
    marks = [pytest.mark.slow] if case.is_slow else []
    return pytest.param(case, id=f"{case.number} {case.name}", marks=marks)


def test_every_number_to_110_has_its_case() -> None:
    assert {case.number for case in (*FILES, *ELSEWHERE)} >= set(range(1, 111))


def test_cases_held_elsewhere_name_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    for case in ELSEWHERE:
        path, is_test, name = case.held_by.partition("::")
        if is_test:
            assert f"def {name}(" in (root / path).read_text(), case.name


@pytest.mark.parametrize("case", [in_order(case) for case in FILES])
def test_verdict(case: Case, spent: list[resource.struct_rusage], table: list[str]) -> None:
    raw, before, started = case.build(), parent(), time.monotonic()

    verdict, cleaned = ACCEPTED, b""
    try:
        cleaned = sandbox.clean_portrait_in_sandbox(raw)
    except PipelineError as error:
        verdict = error.code

    seconds, kilobytes = time.monotonic() - started, max((cost.ru_maxrss for cost in spent), default=0)
    table.append(
        f"{case.number:>3}  {case.name:<48} {verdict:<18} {seconds:5.2f} s {kilobytes // 1024:5d} MiB"
    )
    assert verdict in case.verdicts
    assert seconds < MAX_SECONDS + 2  # the sandbox's own limit, and the time to clean up after it
    assert len(spent) == bool(raw and verdict != "file_too_large")
    assert kilobytes < max(MAX_KILOBYTES, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 1)
    assert parent() == before
    if cleaned:
        assert is_bare(cleaned)
        assert MARKER not in cleaned
        pixels = images.decode_jpeg(cleaned)
        assert max(pixels.shape) <= images.PORTRAIT_LONG_EDGE
        if case.check:
            case.check(pixels)


def placed(portrait: Pixels, edge: int, canvas: tuple[int, int], lefts: tuple[int, ...]) -> Pixels:
    """The portrait, made small, once or more on a grey wall."""
    wall = np.full((*canvas, 3), 140, np.uint8)
    small = cv2.resize(portrait, (edge, edge), interpolation=cv2.INTER_AREA)
    for left in lefts:
        wall[40 : 40 + edge, left : left + edge] = small
    return wall


def cartoon() -> Pixels:
    """A smiling disc."""
    sheet = np.full((800, 800, 3), 255, np.uint8)
    cv2.circle(sheet, (400, 400), 300, (250, 210, 60), -1)
    for x in (300, 500):
        cv2.circle(sheet, (x, 320), 35, (0, 0, 0), -1)
    cv2.ellipse(sheet, (400, 450), (150, 100), 0, 20, 160, (0, 0, 0), 12)
    return sheet


def in_sunglasses(portrait: Pixels) -> Pixels:
    face, worn = the_one_face(portrait), portrait.copy()
    for x, y in (face.left_eye, face.right_eye):
        cv2.circle(worn, (round(x), round(y)), round(0.42 * face.eye_distance), (12, 12, 14), -1)
    return worn


def printed(portrait: Pixels) -> Pixels:
    """A print on a table: smaller, washed out, with a paper's edge, slightly turned."""
    sheet = np.full((1200, 1200, 3), (120, 95, 70), np.uint8)
    sheet[120:1080, 120:1080] = 245
    pale = 60 + 0.7 * cv2.resize(portrait, (900, 900), interpolation=cv2.INTER_AREA)
    sheet[150:1050, 150:1050] = pale.astype(np.uint8)
    turn = cv2.getRotationMatrix2D((600, 600), 3, 1)
    return np.asarray(cv2.warpAffine(sheet, turn, (1200, 1200)), dtype=np.uint8)


def noisy(_: Pixels) -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (800, 800, 3), dtype=np.uint8)


PICTURES: Final[dict[str, tuple[Callable[[Pixels], Pixels], str]]] = {
    "all black": (lambda _: np.zeros((800, 800, 3), np.uint8), "no_face"),
    "all noise": (noisy, "no_face"),
    "cartoon": (lambda _: cartoon(), "no_face"),
    "two faces": (lambda portrait: placed(portrait, 700, (800, 1500), (20, 760)), "several_faces"),
    "no face": (lambda portrait: portrait[700:, :].copy(), "no_face"),
    "face of 20 pixels": (lambda portrait: placed(portrait, 90, (800, 800), (300,)), "no_face"),
    "face of 80 pixels": (lambda portrait: placed(portrait, 360, (800, 800), (200,)), "face_too_small"),
    "sunglasses": (in_sunglasses, "no_face"),
    "printed photo of a photo": (printed, ACCEPTED),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_a_picture_shows_decides(name: str, selfie: Pixels) -> None:
    """By the rules of the preview engine, after the way through the sandbox."""
    draw, expected = PICTURES[name]
    arrived = images.decode_jpeg(sandbox.clean_portrait_in_sandbox(images.encode_jpeg(draw(selfie), 92)))

    verdict = ACCEPTED
    try:
        the_one_face(arrived)
    except Refused as error:
        verdict = error.code

    assert verdict == expected
