"""A mail server on the loopback that keeps what it is given; what it answers can be chosen."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_USUAL: Final = {"DATA": "354 go on", "QUIT": "221 bye"}


class MailServer(socketserver.ThreadingTCPServer):
    """`received` are (recipients, message) in the order of their arrival.

    `answers` replaces the answer to a command by its first word; an answer without a text hangs up.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.answers: dict[str, str] = {}
        self.refused_recipients: set[str] = set()
        self.received: list[tuple[list[str], str]] = []
        self.conversations = 0

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Conversation(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self.server.conversations += 1
        self._say("220 ready")
        recipients: list[str] = []
        while line := self.rfile.readline().decode().strip():
            word = line.split()[0].upper()
            answer = self.server.answers.get(word, _USUAL.get(word, "250 ok"))
            recipient = line.partition("<")[2].rstrip(">")
            if word == "RCPT" and recipient in self.server.refused_recipients:
                self._say("550 no such mailbox")
                continue
            if not answer:
                return
            self._say(answer)
            if word == "MAIL":
                recipients = []
            elif word == "RCPT":
                recipients.append(recipient)
            elif word == "DATA" and answer.startswith("354"):
                self.server.received.append((recipients, self._message()))
                self._say("250 taken")
            elif word == "QUIT":
                return

    def _message(self) -> str:
        lines = []
        while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
            lines.append(line.removeprefix("."))
        return "\n".join(lines)

    def _say(self, answer: str) -> None:
        self.wfile.write(f"{answer}\r\n".encode())


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """A running server; it ends with the block."""
    with MailServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
