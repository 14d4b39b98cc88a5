"""Engines whose pictures are judged as a test wants it, and orders for them."""

import io
import random
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

import pytest
from django.utils import timezone
from PIL import Image

from headshots import tasks
from headshots.models import Order, Shot
from headshots.services import delivery, orders, shots, uploads
from headshots.services.orders import Placed
from headshots.tiers import TIERS
from pipelines import gate
from pipelines.gate import Thresholds
from pipelines.provenance import SourceType, mark
from pipelines.types import Cancelled, FailedShot, FinishedShot, QualityReport, ShotRequest, Sink, Source
from tests.paying import pay

PROMISED, SPARES = TIERS["premium"].headshots, TIERS["premium"].spares


def jpeg_of(seed: int) -> bytes:
    """A small picture that no other seed has."""
    out = io.BytesIO()
    Image.frombytes("RGB", (16, 16), random.Random(seed).randbytes(16 * 16 * 3)).save(out, "JPEG")
    return mark(out.getvalue(), SourceType.GENERATED)


class JudgedEngine:
    """Draws the face of somebody else in a share of its pictures; the product's gate judges each of them."""

    name = "judged"
    proof: Mapping[str, str] = {}

    def __init__(self, wrong_share: float, *, best_similarity: float = 0.75) -> None:
        self.wrong_share = wrong_share
        self.best_similarity = best_similarity
        self.dice = random.Random(2026)
        self.right: set[int] = set()  # seeds
        self.wrong_count = 0
        self.rendered: list[str] = []

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """Render one shot at a time, each from its seeds in order until one passes."""
        while requests := source(1):
            for request in requests:
                if not cancelled(request.shot_id):
                    sink(self._shot(request))

    def _shot(self, request: ShotRequest) -> FinishedShot | FailedShot:
        self.rendered.append(request.shot_id)
        for seed in request.seeds:
            is_wrong = self.dice.random() < self.wrong_share
            similarity = 0.1 if is_wrong else self.dice.uniform(0.42, self.best_similarity)
            report = judged(similarity)
            if report.problems:
                self.wrong_count += 1
                continue
            self.right.add(seed)
            return finished(request.shot_id, seed, report)
        return FailedShot(shot_id=request.shot_id, code="quality_gate", is_retryable=False)


def judged(similarity: float) -> QualityReport:
    """What the gate says of a picture with one face, sharp and of natural skin."""
    bounds = Thresholds()
    measures = {"faces": 1.0, "similarity": similarity, "sharpness": 200.0, "skin_texture": 1.0}
    if problems := gate.problems(measures, bounds):
        return QualityReport(measures=measures, problems=problems)
    return QualityReport(
        measures=measures, likeness=gate.likeness(similarity, bounds), rank=gate.rank(measures, bounds)
    )


def finished(shot_id: str, seed: int, report: QualityReport) -> FinishedShot:
    return FinishedShot(
        shot_id=shot_id,
        seed=seed,
        jpeg=jpeg_of(seed),
        preview_jpeg=jpeg_of(seed + 1),
        width=16,
        height=16,
        report=report,
        seconds=0.5,
    )


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a photo looks like is no matter here."""
    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", lambda raw, **options: raw)


@pytest.fixture
def rendered_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[JudgedEngine], JudgedEngine]:
    """Let a worker with that engine drain the queue, and then look again, as a second hint would."""

    def render(engine: JudgedEngine) -> JudgedEngine:
        monkeypatch.setattr(tasks, "_engine", lambda: engine)
        tasks.render()
        shots.sweep(timezone.now())
        tasks.render()
        return engine

    return render


@pytest.fixture
def pack_order(place: Callable[..., Placed], now: datetime) -> Order:
    """A paid premium order whose shots wait for a worker."""
    order = place(tier_slug="premium").order
    orders.accept(order, now)
    pay(Order.objects.get(), now)
    return Order.objects.get()


@pytest.fixture
def free_order(placed: Placed, now: datetime) -> Order:
    """A free order whose shots wait for a worker."""
    orders.accept(placed.order, now)
    return Order.objects.get()


def archive_of(order: Order) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(b"".join(delivery.stream_archive(order, timezone.now()))))


def states() -> Counter[str]:
    return Counter(Shot.objects.values_list("state", flat=True))
