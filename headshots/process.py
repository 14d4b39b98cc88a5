"""What a process asks of the kernel: no dump of its memory on a disk, and no orphan out of its sight."""

import ctypes
import os
import resource
from typing import Final

# linux/prctl.h
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36


def harden() -> None:
    """No core dumps from here on, for this process and those it forks. Raises OSError if the kernel refuses.

    Both are needed: a handler that core_pattern pipes dumps to may be started whatever the limit is, and a
    process that is not dumpable can still be made so again by starting another program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def is_hardened() -> bool:
    """Whether the kernel would keep this process's memory to itself."""
    return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and _prctl(_PR_GET_DUMPABLE, 0) == 0


def adopt_orphans() -> None:
    """From here on a descendant whose parent ends becomes this process's child, to be waited for."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> int:
    answer = ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(answer)
