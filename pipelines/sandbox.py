"""Decodes a customer's file in a child process that can neither keep, send nor spend much.

Image decoders are the one place where a stranger's bytes meet C code. The child has no keys, no
environment, 1 GiB of memory and 6 s of CPU, writes to no file, and lives for one photo.
"""

import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import Final

from pipelines.errors import Refused, Retryable

MAX_CHILDREN: Final = 2  # at a time and per process: bounds memory to 2 GiB, and CPU to two cores
MAX_OUTPUT_BYTES: Final = 40_000_000  # a 4096 x 4096 JPEG of noise at quality 95 has 30 MB
MEMORY_BYTES: Final = 1024**3
CPU_SECONDS: Final = 6
OPEN_FILES: Final = 16

_READY: Final = b"ready\n"
_OK: Final = b"ok\n"
_CHUNK: Final = 65536  # what a pipe holds
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h

_children = threading.BoundedSemaphore(MAX_CHILDREN)


def clean_portrait_in_sandbox(raw: bytes, *, timeout_seconds: float = 10) -> bytes:
    """What `images.clean_portrait(raw)` gives, made by a confined child process; at most `timeout_seconds`.

    Raises Refused with the codes of `clean_portrait`; a child that crashed, was killed or ran out of time
    reads as truncated_image, one that ran out of memory as too_many_pixels. Raises Retryable
    ("sandbox_unavailable") when no child could be started: not the photo's fault.
    """
    from pipelines.images import MAX_UPLOAD_BYTES  # not in the child before it needs it

    if not raw:
        raise Refused("empty_file")
    if len(raw) > MAX_UPLOAD_BYTES:
        raise Refused("file_too_large")
    with _children:
        answer = _ask_child(raw, time.monotonic() + timeout_seconds)
    if not answer.startswith(_READY):
        raise Retryable("sandbox_unavailable")
    status, separator, body = answer[len(_READY) :].partition(b"\n")
    if not separator:
        raise Refused("truncated_image")
    if status + separator != _OK:
        raise Refused(status.decode("ascii", "replace"))
    return body


def _ask_child(raw: bytes, deadline: float) -> bytes:
    """Everything the child wrote before it ended or `deadline` passed; the child is gone afterwards."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # finds libpython
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-m", "pipelines.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=kept,
            cwd="/",
            close_fds=True,
            start_new_session=True,
        )
    except OSError as error:
        raise Retryable("sandbox_unavailable") from error
    try:
        return _exchange(child, raw, deadline)
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _exchange(child: "subprocess.Popen[bytes]", raw: bytes, deadline: float) -> bytes:
    """Feeds `raw` and collects the answer at the same time, so that neither side can block the other."""
    assert child.stdin is not None
    assert child.stdout is not None
    answer, unsent = bytearray(), memoryview(raw)
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdin, selectors.EVENT_WRITE)
        selector.register(child.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if key.fileobj is child.stdout:
                    chunk = os.read(key.fd, _CHUNK)
                    answer += chunk
                    if not chunk or len(answer) > MAX_OUTPUT_BYTES:
                        return bytes(answer) if not chunk else _READY
                else:
                    unsent = _send(key.fd, unsent)
                    if not unsent:
                        selector.unregister(child.stdin)
                        child.stdin.close()
    return bytes(answer[: len(_READY)])


def _send(pipe: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(pipe, unsent[:_CHUNK]) :]
    except BrokenPipeError:  # the child ended early; its answer says why
        return unsent[:0]


def _main() -> None:
    """The child: confine, read one photo from stdin, answer on stdout."""
    from pipelines import images

    _confine()
    out = sys.stdout.buffer
    out.write(_READY)
    out.flush()
    try:
        portrait = images.clean_portrait(sys.stdin.buffer.read())
    except Refused as refusal:
        out.write(refusal.code.encode() + b"\n")
    except MemoryError:
        out.write(b"too_many_pixels\n")
    else:
        out.write(_OK)
        out.write(portrait)
    out.flush()
    os._exit(0)  # nothing to tidy up: freeing 200 MB politely costs time


def _confine() -> None:
    """Gives up, for the rest of this process, everything that decoding a photo does not need."""
    import ctypes
    import resource

    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) or prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        os._exit(1)


if __name__ == "__main__":
    _main()
