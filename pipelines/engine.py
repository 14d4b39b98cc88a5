"""The seam between the jobs and the picture makers: one protocol, and the one place that chooses."""

from typing import Protocol

from pipelines.errors import Final
from pipelines.types import Cancelled, EngineConfig, Face, Pixels, Sink, Source


class Engine(Protocol):
    """Makes headshots. One instance per process; not thread-safe."""

    name: str

    def assess(self, portrait: Pixels) -> Face:
        """The one usable face of the portrait.

        Raises Refused (no_face, several_faces, face_too_small, face_too_dark, face_too_bright,
        face_blurred): tell the customer, erase the photo.
        """

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """Render what `source` gives until it gives nothing more; every request ends in one `sink` call.

        The exception: a request whose `cancelled(shot_id)` turned true may end without a result.
        Errors of one shot become FailedShot; what rises from here concerns the whole engine.
        """


def load_engine(config: EngineConfig) -> Engine:
    """The engine named by `config.kind`, ready to run. Raises Final("unknown_engine") for any other name."""
    if config.kind == "preview":
        from pipelines.preview import PreviewEngine  # OpenCV: only where pictures are made

        return PreviewEngine()
    raise Final("unknown_engine", f"ENGINE={config.kind!r} is not an engine; known: preview")
