"""The child of `pipelines.sandbox`: one photo from stdin, its pixels to stdout, and no means for more.

It looks at the first bytes, imports the one decoder they call for, and gives everything else up: 1 GiB of
memory and 6 s of CPU are left, and no file to open or write, no socket, no process, no way to gain rights.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
from typing import Final

from pipelines import images, seccomp
from pipelines.errors import Refused

MEMORY_BYTES: Final = 1024**3
CPU_SECONDS: Final = 6
OPEN_FILES: Final = 16

READY: Final = b"ready\n"
UNCONFINED: Final = b"unconfined\n"
OK: Final = b"ok\n"  # then the SIZE, then 3 bytes a pixel
SIZE: Final = struct.Struct(">II")  # width and height
OPTIONAL_FILTER: Final = "--filter-is-optional"

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000  # linux/sched.h


def _main() -> None:
    """The child: look at the first bytes, confine, read the photo from stdin, answer on stdout."""
    head = sys.stdin.buffer.read(images.HEAD_BYTES)
    file_format = images.format_of(head)
    if file_format is not None:
        images.load_decoder(file_format)
    try:
        confine(with_threads=file_format == "HEIF", is_filter_optional=OPTIONAL_FILTER in sys.argv)
    except OSError:
        _answer(UNCONFINED)
        os._exit(1)
    _answer(READY)
    try:
        width, height, rgb = images.clean_pixels(head + sys.stdin.buffer.read())
    except Refused as refusal:
        _answer(refusal.code.encode() + b"\n")
    except MemoryError:
        _answer(b"too_many_pixels\n")
    else:
        _answer(OK, SIZE.pack(width, height), rgb)
    os._exit(0)  # nothing to tidy up: freeing 200 MB politely costs time


def _answer(*parts: bytes) -> None:
    for part in parts:
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def confine(*, with_threads: bool, is_filter_optional: bool = False) -> None:
    """Gives up, for the rest of this process, everything that decoding a photo does not need.

    Raises OSError when the kernel does not take it all; only the namespaces are left to it, since many
    containers forbid them and the filter shuts the same doors.
    """
    limits = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if not with_threads:  # the kernel counts threads as processes here; the filter tells them apart
        limits[resource.RLIMIT_NPROC] = 0
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) or libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        seccomp.allow_decoding_only(with_threads=with_threads)
    except OSError:
        if not is_filter_optional:
            raise


if __name__ == "__main__":
    _main()
