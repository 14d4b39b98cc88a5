"""Decodes a customer's file in a child process that can neither keep, send nor spend much.

Image decoders are the one place where a stranger's bytes meet C code. The child (`pipelines.confined`) is a
fresh interpreter without environment, keys or descriptors of ours, and lives for one photo.
"""

import os
import selectors
import subprocess
import sys
import threading
import time
from typing import Final

from pipelines.confined import OK, OPTIONAL_FILTER, READY, UNCONFINED
from pipelines.errors import Refused, Retryable
from pipelines.images import MAX_UPLOAD_BYTES

MAX_CHILDREN: Final = 2  # at a time and per process: bounds memory to 2 GiB, and CPU to two cores
MAX_OUTPUT_BYTES: Final = 40_000_000  # a 4096 x 4096 JPEG of noise at quality 95 has 30 MB

_CHUNK: Final = 65536  # what a pipe holds

_children = threading.BoundedSemaphore(MAX_CHILDREN)


def clean_portrait_in_sandbox(
    raw: bytes, *, timeout_seconds: float = 10, is_filter_optional: bool = False
) -> bytes:
    """What `images.clean_portrait(raw)` gives, made by a confined child process; at most `timeout_seconds`.

    `is_filter_optional` lets it work on a kernel that refuses the system call filter; the other limits stay.

    Raises Refused with the codes of `clean_portrait`; a child that crashed, was killed or ran out of time
    reads as truncated_image, one that ran out of memory as too_many_pixels. Raises Retryable
    ("sandbox_unavailable") when no child could be started or confined: not the photo's fault.
    """
    if not raw:
        raise Refused("empty_file")
    if len(raw) > MAX_UPLOAD_BYTES:
        raise Refused("file_too_large")
    arguments = [OPTIONAL_FILTER] if is_filter_optional else []
    with _children:
        answer = _ask_child(raw, time.monotonic() + timeout_seconds, arguments)
    if answer.startswith(UNCONFINED):
        raise Retryable("sandbox_unavailable", "the kernel refused the sandbox's system call filter")
    if not answer.startswith(READY):
        raise Retryable("sandbox_unavailable")
    status, separator, body = answer[len(READY) :].partition(b"\n")
    if not separator:
        raise Refused("truncated_image")
    if status + separator != OK:
        raise Refused(status.decode("ascii", "replace"))
    return body


def _ask_child(raw: bytes, deadline: float, arguments: list[str]) -> bytes:
    """Everything the child wrote before it ended or `deadline` passed; the child is gone afterwards."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}  # finds libpython
    try:
        child = subprocess.Popen(
            # Not -B: the modules' compiled form, kept by the first child, saves each later one 40 ms.
            [sys.executable, "-I", "-m", "pipelines.confined", *arguments],
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
                        return bytes(answer) if not chunk else READY
                else:
                    unsent = _send(key.fd, unsent)
                    if not unsent:
                        selector.unregister(child.stdin)
                        child.stdin.close()
    return bytes(answer[: len(READY)])


def _send(pipe: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(pipe, unsent[:_CHUNK]) :]
    except BrokenPipeError:  # the child ended early; its answer says why
        return unsent[:0]
