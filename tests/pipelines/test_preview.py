"""The preview engine from request to JPEG: sizes, determinism, refusals, fallback, gate."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines import faces, preview
from pipelines.engine import load_engine
from pipelines.errors import Final
from pipelines.images import decode_jpeg
from pipelines.preview import PreviewEngine
from pipelines.styles import BUILTIN
from pipelines.types import (
    EngineConfig,
    FailedShot,
    FinishedShot,
    OutputSpec,
    Pixels,
    QualityReport,
    ShotRequest,
    Source,
)

pytestmark = pytest.mark.slow

NATIVE = OutputSpec(long_edge=1152, is_watermarked=False)
PRESETS = {style.preset.slug: style.preset for style in BUILTIN}


def shot(
    portrait: Pixels, slug: str = "corporate", seed: int = 1, output: OutputSpec = NATIVE
) -> ShotRequest:
    return ShotRequest(
        shot_id=f"{slug}-{seed}",
        identity="one",
        portrait=portrait,
        preset=PRESETS[slug],
        seeds=(seed, seed + 1),
        output=output,
    )


def source_of(requests: Sequence[ShotRequest]) -> Source:
    waiting = list(requests)

    def source(slots: int) -> Sequence[ShotRequest]:
        taken, waiting[:] = waiting[:slots], waiting[slots:]
        return taken

    return source


def render(
    *requests: ShotRequest, cancelled: Callable[[str], bool] = lambda _: False
) -> list[FinishedShot | FailedShot]:
    results: list[FinishedShot | FailedShot] = []
    PreviewEngine().run(source_of(requests), results.append, cancelled)
    return results


def finished(*requests: ShotRequest) -> list[FinishedShot]:
    results = render(*requests)
    assert [type(result) for result in results] == [FinishedShot] * len(requests)
    return [result for result in results if isinstance(result, FinishedShot)]


def test_the_engine_is_loaded_by_its_name() -> None:
    assert load_engine(EngineConfig(kind="preview")).name == "preview"
    with pytest.raises(Final) as error:
        load_engine(EngineConfig(kind="magic"))
    assert error.value.code == "unknown_engine"


@pytest.mark.slow
def test_every_style_gives_another_backdrop(selfie: Pixels) -> None:
    results = finished(*(shot(selfie, slug) for slug in PRESETS))

    corners = [decode_jpeg(result.jpeg)[:120, :200].astype(int) for result in results]
    assert all(result.report.problems == () for result in results)
    for index, one in enumerate(corners):
        for other in corners[index + 1 :]:
            assert np.abs(one - other).mean() > 8


def test_equal_requests_give_equal_bytes_and_another_seed_another_picture(selfie: Pixels) -> None:
    first, other = finished(shot(selfie), shot(selfie, seed=7))
    (again,) = finished(shot(selfie))

    assert first.jpeg == again.jpeg
    assert first.preview_jpeg == again.preview_jpeg
    assert np.abs(decode_jpeg(first.jpeg).astype(int) - decode_jpeg(other.jpeg)).mean() > 3


@pytest.mark.parametrize(("long_edge", "size"), [(1152, (896, 1152)), (3840, (2987, 3840))])
def test_pictures_have_exactly_the_ordered_size(
    long_edge: int, size: tuple[int, int], selfie: Pixels
) -> None:
    (result,) = finished(shot(selfie, output=OutputSpec(long_edge=long_edge, is_watermarked=False)))

    assert (result.width, result.height) == size
    assert Image.open(io.BytesIO(result.jpeg)).size == size
    assert Image.open(io.BytesIO(result.preview_jpeg)).size == (448, 576)


def test_the_face_is_not_stretched(selfie: Pixels) -> None:
    before = faces.the_one_face(selfie)
    (result,) = finished(shot(selfie, "healthcare"))

    after = faces.the_one_face(decode_jpeg(result.jpeg))
    slope = [(f.right_eye[1] - f.left_eye[1]) / (f.right_eye[0] - f.left_eye[0]) for f in (before, after)]
    assert after.eye_distance / after.height == pytest.approx(before.eye_distance / before.height, rel=0.08)
    assert slope[1] == pytest.approx(slope[0], abs=0.03)


def test_a_doubtful_cut_out_keeps_the_photo_s_own_background(selfie: Pixels) -> None:
    tight = np.ascontiguousarray(selfie[60:430, 290:610])

    results = finished(shot(tight, "outdoor"), shot(tight, "tech"))

    for result in results:
        corner = decode_jpeg(result.jpeg)[-300:, -60:].mean(axis=(0, 1))
        assert corner.max() - corner.min() < 45  # the grey wall she stands before, not leaves, not blue glass
    assert all("soft_edge" not in result.report.measures for result in results)


def test_a_portrait_without_a_face_fails_for_good(selfie: Pixels) -> None:
    flat = np.full_like(selfie, 120)

    results = render(replace(shot(flat), identity="nobody"), shot(selfie))

    assert results[0] == FailedShot(shot_id="corporate-1", code="no_face", is_retryable=False)
    assert isinstance(results[1], FinishedShot)


def test_a_cancelled_shot_ends_without_a_result(selfie: Pixels) -> None:
    results = render(
        shot(selfie, seed=1), shot(selfie, seed=5), cancelled=lambda shot_id: shot_id == "corporate-1"
    )

    assert [result.shot_id for result in results] == ["corporate-5"]


def test_a_candidate_that_fails_the_gate_is_redone_with_the_next_seed(
    monkeypatch: pytest.MonkeyPatch, selfie: Pixels
) -> None:
    verdicts = [QualityReport(measures={}, problems=("no_face",)), QualityReport(measures={})]
    monkeypatch.setattr(preview, "assess_headshot", lambda *_: verdicts.pop(0))

    (result,) = finished(shot(selfie, seed=4))

    assert result.seed == 5


def test_a_shot_that_never_passes_the_gate_fails_for_good(
    monkeypatch: pytest.MonkeyPatch, selfie: Pixels
) -> None:
    bad = QualityReport(measures={}, problems=("face_blurred",))
    monkeypatch.setattr(preview, "assess_headshot", lambda *_: bad)

    assert render(shot(selfie)) == [
        FailedShot(shot_id="corporate-1", code="quality_gate", is_retryable=False)
    ]


def test_an_accident_of_one_shot_is_retryable_and_logged_without_its_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, selfie: Pixels
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a secret")

    monkeypatch.setattr(preview, "paint", broken)

    assert render(shot(selfie)) == [FailedShot(shot_id="corporate-1", code="engine_error", is_retryable=True)]
    assert caplog.messages == ["shot corporate-1 failed: ValueError"]


def test_the_gate_sees_a_missing_face_a_second_face_and_blur(selfie: Pixels) -> None:
    (result,) = finished(shot(selfie))
    picture = decode_jpeg(result.jpeg)
    pair = np.asarray(cv2.resize(np.hstack([selfie[:, 200:700]] * 2), (1000, 1024)), dtype=np.uint8)

    assert preview.assess_headshot(picture).problems == ()
    assert preview.assess_headshot(np.full_like(picture, 90)).problems == ("no_face",)
    assert "several_faces" in preview.assess_headshot(pair).problems
    blurred = np.asarray(cv2.GaussianBlur(picture, (0, 0), 14), dtype=np.uint8)
    assert "face_blurred" in preview.assess_headshot(blurred).problems
    grey = np.full((1152, 896), 0.5, np.float32)
    assert preview.assess_headshot(picture, grey).problems == ("soft_edge",)
