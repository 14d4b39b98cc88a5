"""What becomes of a shot whose making raised an error: one accident must not cost the others theirs.

An error of the device is told apart: after it every later shot would fail as well, so it is the engine's.
The libraries are known by the names of their classes, since the preview engine runs without them.
"""

import logging
from collections.abc import Iterator
from typing import Final

from pipelines.errors import EngineBroken, PipelineError, Retryable
from pipelines.types import FailedShot

ENGINE_ERROR: Final = "engine_error"
OUT_OF_MEMORY: Final = "out_of_memory"

_TORCH_BEGINNINGS: Final = ("CUDA error", "CUDA driver error", "cuDNN error")
_ONNXRUNTIME_WORDS: Final = ("CUDA failure", "CUDNN failure", "CUBLAS failure")
_MEMORY_WORDS: Final = ("out of memory", "Failed to allocate memory")

_log = logging.getLogger(__name__)


def failed_shot(shot_id: str, error: Exception) -> FailedShot:
    """The failure to report for `error`: with its own code, or "engine_error" for what nobody foresaw.

    Another attempt makes sense for Retryable, for memory that ran out and for the unforeseen. The log line
    names the shot and the class; of the text only what our own errors say, which holds no person's data.
    Raises EngineBroken for an error of the device, which is not the shot's.
    """
    if any(map(is_out_of_memory, _chain(error))):
        _log.warning("shot %s failed: %s", shot_id, OUT_OF_MEMORY)
        return FailedShot(shot_id=shot_id, code=OUT_OF_MEMORY, is_retryable=True)
    if any(map(_is_of_device, _chain(error))):
        raise EngineBroken("engine_broken", f"the device failed: {type(error).__name__}") from error
    if isinstance(error, PipelineError):
        _log.warning("shot %s failed: %s: %s", shot_id, error.code, error)
        return FailedShot(shot_id=shot_id, code=error.code, is_retryable=isinstance(error, Retryable))
    _log.error("shot %s failed: %s", shot_id, type(error).__name__)
    return FailedShot(shot_id=shot_id, code=ENGINE_ERROR, is_retryable=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, onnxruntime or Python found no memory; the device is none the worse for it."""
    if isinstance(error, MemoryError):
        return True
    return _is_of_library(error) and any(words in str(error) for words in _MEMORY_WORDS)


def _is_of_device(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, EngineBroken)
        or any(kind.__name__ == "AcceleratorError" for kind in type(error).__mro__)
        or (isinstance(error, RuntimeError) and text.startswith(_TORCH_BEGINNINGS))
        or (_is_of_library(error) and any(words in text for words in _ONNXRUNTIME_WORDS))
    )


def _is_of_library(error: BaseException) -> bool:
    """Whether it is torch's, whose errors are RuntimeErrors, or onnxruntime's, whose are their own."""
    return isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from: loading a file onto a broken device looks like a bad file."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__
