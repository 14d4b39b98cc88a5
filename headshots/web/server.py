"""The web server's worker: gunicorn's threads, none of which waits for a customer longer than is fair.

gunicorn reads and writes without any time limit once a request's first byte is there. As many connections as
there are threads, each with half a request, would then hold the site, and with it "delete now", for as long
as they like. Here a customer who sends or takes nothing loses the connection, and so does who is too slow.
"""

import errno
import socket
import time
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ
from typing import Any, Final, TypeVar

from gunicorn.workers.gthread import TConn, ThreadWorker

IDLE_SECONDS: Final = 5.0  # a new connection without a first byte; browsers open some in advance
STALL_SECONDS: Final = 20.0  # nothing comes or goes: a phone between two cells takes some seconds
MIN_BYTES_PER_SECOND: Final = 16 * 1024  # slower than a third of the slowest 3G

T = TypeVar("T")


class PatientSocket(socket.socket):
    """A connection that may keep a thread waiting STALL_SECONDS, and longer only for what it moves meanwhile.

    Each byte gives back its share of the time, up to the whole: a body is read within STALL_SECONDS and its
    size over MIN_BYTES_PER_SECOND, or reading it raises TimeoutError. Our own work in between does not count.
    """

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        self.patience_seconds = STALL_SECONDS

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = self._within_patience(partial(super().recv, size, flags))
        self._credit(len(data))
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        unsent = memoryview(data)
        while unsent:
            sent = self._within_patience(partial(super().send, unsent, flags))
            self._credit(sent)
            unsent = unsent[sent:]

    def _within_patience(self, transfer: Callable[[], T]) -> T:
        limit = self.gettimeout()
        self.settimeout(self.patience_seconds if limit is None else min(limit, self.patience_seconds))
        began = time.monotonic()
        try:
            return transfer()
        except (TimeoutError, BlockingIOError):
            # The number is one that gunicorn takes for a customer who left: no trace of it fills the log.
            raise TimeoutError(errno.ECONNRESET, "the connection stalled") from None
        finally:
            self.patience_seconds = max(0.0, self.patience_seconds - (time.monotonic() - began))
            self.settimeout(limit)

    def _credit(self, moved_bytes: int) -> None:
        earned = moved_bytes / MIN_BYTES_PER_SECOND
        self.patience_seconds = min(STALL_SECONDS, self.patience_seconds + earned)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker over patient sockets."""

    def enqueue_req(self, conn: TConn) -> None:
        """Give a request to a thread; a new connection waits for its first byte without one."""
        if conn.initialized or conn.data_ready:
            conn.sock.patience_seconds = STALL_SECONDS
            super().enqueue_req(conn)
            return
        conn.sock = PatientSocket(conn.sock)
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + IDLE_SECONDS
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: TConn) -> Any:
        """Answer a request in this thread; the result says whether the connection stays open."""
        stays_open = super().handle(conn)
        if not stays_open:  # the thread that accepts closes it, and must not wait for the customer to do so
            conn.sock.patience_seconds = 0.0
        return stays_open
