"""When the engine of this process makes nothing more: how that is seen, and how the process ends.

After an error of the device each later picture fails as well, and a worker that fails fast is the first to
ask for more. Another process begins with an engine that has to make a step before it gets any work.
"""

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

from billiard import current_process

from pipelines.errors import EngineBroken

if TYPE_CHECKING:  # they bring numpy
    from pipelines.types import FailedShot, FinishedShot

log = logging.getLogger(__name__)

MAX_ERRORS: Final = 8  # that nobody foresaw, without a picture between them
UNFORESEEN: Final = "engine_error"

_lock = threading.Lock()
_errors = [0]  # in a row, of this process


def note(result: "FinishedShot | FailedShot") -> None:
    """Take a result into account. Raises EngineBroken after MAX_ERRORS errors in a row."""
    code = getattr(result, "code", None)
    with _lock:
        if code is None:
            _errors[0] = 0
        elif code == UNFORESEEN:
            _errors[0] += 1
            if _errors[0] >= MAX_ERRORS:
                _errors[0] = 0  # a process that goes on all the same begins anew
                raise EngineBroken("engine_broken", f"{MAX_ERRORS} pictures in a row failed")


def end_process(error: EngineBroken) -> None:
    """End this process if it is a child of a pool, whose parent starts another; else do nothing."""
    log.critical("the engine is broken: %s", type(error.__cause__ or error).__name__)
    if current_process().daemon:
        log.critical("this process ends")
        os._exit(os.EX_SOFTWARE)
