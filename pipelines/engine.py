"""The seam between the jobs and the picture makers: one protocol, and the one place that chooses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final as Constant
from typing import Protocol, TypeAlias

from pipelines.errors import Final
from pipelines.types import Cancelled, EngineConfig, Face, Pixels, Sink, Source

ENGINES: Constant = ("preview", "instantid")
FETCH: Constant = "Mend: python manage.py weights fetch DIR"

Assessor: TypeAlias = Callable[[Pixels], Face]
"""The one usable face of a portrait.

Raises Refused (no_face, several_faces, face_too_small, face_too_dark, face_too_bright, face_blurred, and of
the engine that measures poses face_turned): tell the customer, erase the photo.
"""


class Engine(Protocol):
    """Makes headshots. One instance per process; not thread-safe."""

    name: str

    @property
    def proof(self) -> Mapping[str, str]:
        """What it runs on, for the log and for repeating a picture: device, versions, hash of the weights."""

    def run(self, source: Source, sink: Sink, cancelled: Cancelled) -> None:
        """Render what `source` gives until it gives nothing more; every request ends in one `sink` call.

        The exception: a request whose `cancelled(shot_id)` turned true may end without a result.
        Errors of one shot become FailedShot; what rises from here concerns the whole engine (EngineBroken),
        or is an error of `source`, `sink` or `cancelled`. No call of `sink` is left open when it returns or
        raises.
        """


def load_engine(config: EngineConfig) -> Engine:
    """The engine named by `config.kind`, ready to run.

    Raises Final: unknown_engine, and for instantid no_weights, weights_missing, weights_altered, bad_weights,
    bad_calibration, random_weights, unknown_device, no_cuda. All of them are the operator's to mend; nothing
    falls back.
    """
    if config.kind == "preview":
        from pipelines.preview import PreviewEngine  # OpenCV: only where pictures are made

        return PreviewEngine()
    folder = _weights_of(config)
    from pipelines import compat  # torch: the same

    compat.install()
    from pipelines.instantid.engine import InstantIdEngine
    from pipelines.instantid.loading import load_parts

    parts = load_parts(folder, config.device)
    if parts.is_random and not config.accepts_random_weights:
        raise Final("random_weights", f"{folder} holds random weights, which are for tests. {FETCH}")
    return InstantIdEngine(parts, config.slots, config.reserved_places)


def load_assessor(config: EngineConfig) -> Assessor:
    """What looks at selfies for that engine. Needs no GPU: photos are assessed where there is none.

    Raises Final as `load_engine` does.
    """
    if config.kind == "preview":
        from pipelines.faces import the_one_face

        return the_one_face
    folder = _weights_of(config)
    from pipelines.instantid.assess import load

    return load(folder)


def _weights_of(config: EngineConfig) -> Path:
    if config.kind not in ENGINES:
        raise Final("unknown_engine", f"{config.kind!r} is not an engine; known: {', '.join(ENGINES)}")
    if config.weights_dir is None:
        raise Final("no_weights", f"engine {config.kind} needs a folder of weights. {FETCH}")
    return config.weights_dir
