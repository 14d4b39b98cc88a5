"""Decodes a customer's file in a child process that can neither keep, send nor spend much.

Image decoders are the one place where a stranger's bytes meet C code. The child (`pipelines.confined`) is a
fresh interpreter without environment, keys or descriptors of ours, and lives for one photo. It gives back
pixels and no file: whatever took it over, no decoder of ours ever reads what it wrote.
"""

import os
import selectors
import subprocess
import sys
import threading
import time
from typing import Final

from pipelines import images
from pipelines.confined import OK, OPTIONAL_FILTER, READY, SIZE, UNCONFINED
from pipelines.errors import Refused, Retryable

MAX_CHILDREN: Final = 2  # at a time and per process: bounds memory to 2 GiB and 0.3 of ours, CPU to two cores
MAX_STATUS_BYTES: Final = 32
MAX_OUTPUT_BYTES: Final = len(READY) + len(OK) + SIZE.size + 3 * images.PORTRAIT_LONG_EDGE**2  # 50 MB
# As long as a photo may take. The eighth of eight threads waits for three others, usually 1 s in all.
WAIT_SECONDS: Final = 10.0
BUSY: Final = "sandbox_busy"

_CHUNK: Final = 65536  # what a pipe holds
_CODES: Final = frozenset(
    ("not_an_image", "truncated_image", "too_many_pixels", "image_too_small", "odd_shape", "animated_image")
)

_children = threading.BoundedSemaphore(MAX_CHILDREN)


def clean_portrait_in_sandbox(
    raw: bytes,
    *,
    timeout_seconds: float = 10,
    wait_seconds: float = WAIT_SECONDS,
    is_filter_optional: bool = False,
) -> bytes:
    """What `images.clean_portrait(raw)` gives, from the pixels of a child that has `timeout_seconds` for it.

    `is_filter_optional` lets it work on a kernel that refuses the system call filter; the other limits stay.

    Raises Refused with the codes of `clean_pixels`; a child that crashed, was killed, ran out of time or
    answered nonsense reads as truncated_image, one that ran out of memory as too_many_pixels. Raises
    Retryable("sandbox_unavailable") when no child could be started or confined, and Retryable("sandbox_busy")
    when `wait_seconds` passed while others decoded: neither is the photo's fault.
    """
    if not raw:
        raise Refused("empty_file")
    if len(raw) > images.MAX_UPLOAD_BYTES:
        raise Refused("file_too_large")
    arguments = [OPTIONAL_FILTER] if is_filter_optional else []
    if not _children.acquire(timeout=wait_seconds):
        raise Retryable(BUSY)
    try:
        return _portrait(_ask_child(raw, time.monotonic() + timeout_seconds, arguments))
    finally:
        _children.release()


def _portrait(answer: bytes | bytearray) -> bytes:
    """The picture of a child's answer, encoded here."""
    if answer.startswith(UNCONFINED):
        raise Retryable("sandbox_unavailable", "the kernel refused the sandbox's system call filter")
    if not answer.startswith(READY):
        raise Retryable("sandbox_unavailable")
    at = answer.find(b"\n", len(READY), len(READY) + MAX_STATUS_BYTES) + 1
    status = bytes(answer[len(READY) : at])
    if status != OK:
        code = status.decode("ascii", "replace").rstrip("\n")
        raise Refused(code if code in _CODES else "truncated_image")
    if len(answer) < at + SIZE.size:
        raise Refused("truncated_image")
    width, height = SIZE.unpack_from(answer, at)
    return images.portrait_of(width, height, memoryview(answer)[at + SIZE.size :])


def _ask_child(raw: bytes, deadline: float, arguments: list[str]) -> bytes | bytearray:
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


def _exchange(child: "subprocess.Popen[bytes]", raw: bytes, deadline: float) -> bytes | bytearray:
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
                        return answer if not chunk else READY
                else:
                    unsent = _send(key.fd, unsent)
                    if not unsent:
                        selector.unregister(child.stdin)
                        child.stdin.close()
    return answer[: len(READY)]


def _send(pipe: int, unsent: memoryview) -> memoryview:
    try:
        return unsent[os.write(pipe, unsent[:_CHUNK]) :]
    except BrokenPipeError:  # the child ended early; its answer says why
        return unsent[:0]
