"""A picture as an engine hands it in for a claim, without an engine."""

from headshots.services import claiming
from pipelines.types import FinishedShot, QualityReport

UNJUDGED = QualityReport(measures={})


def rendered(
    claimed: claiming.Claim,
    jpeg: bytes = b"a picture",
    preview_jpeg: bytes = b"a small picture",
    *,
    width: int = 896,
    height: int = 1152,
    report: QualityReport = UNJUDGED,
    seconds: float = 1.0,
) -> FinishedShot:
    """A picture of the claim's first seed; its bytes need be no JPEG."""
    return FinishedShot(
        shot_id=str(claimed.shot.pk),
        seed=claimed.seeds[0],
        jpeg=jpeg,
        preview_jpeg=preview_jpeg,
        width=width,
        height=height,
        report=report,
        seconds=seconds,
    )
