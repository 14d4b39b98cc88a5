"""What becomes of a shot whose making raised an error: one accident must not cost the others theirs."""

import logging

from pipelines.errors import PipelineError, Retryable
from pipelines.types import FailedShot

_log = logging.getLogger(__name__)


def failed_shot(shot_id: str, error: Exception) -> FailedShot:
    """The failure to report for `error`: with its own code, or "engine_error" for what nobody foresaw.

    Another attempt makes sense for Retryable and for the unforeseen. The log line names the shot and the
    class; of the text only what our own errors say, which holds no person's data.
    """
    if isinstance(error, PipelineError):
        _log.warning("shot %s failed: %s: %s", shot_id, error.code, error)
        return FailedShot(shot_id=shot_id, code=error.code, is_retryable=isinstance(error, Retryable))
    _log.error("shot %s failed: %s", shot_id, type(error).__name__)
    return FailedShot(shot_id=shot_id, code="engine_error", is_retryable=True)
