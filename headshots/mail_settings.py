"""The mail server that MAIL_SERVER and MAIL_FROM name, for Django's settings."""

from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Final
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from headshots.env import Environment

TIMEOUT_SECONDS: Final = 20  # for each answer of the server

_PORTS: Final = {"smtp": 587, "smtps": 465, "smtp+plain": 25}
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where mails are given; the console's backend has no host."""

    backend: str
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    uses_starttls: bool = False
    uses_tls: bool = False


def read_mail_server(environment: Environment) -> MailServer:
    """The server of MAIL_SERVER, or the console when it is empty.

    Raises ValueError with what is wrong with MAIL_SERVER or MAIL_FROM; it repeats neither.
    """
    try:
        validate_email(parseaddr(environment.mail_from)[1])
    except ValidationError:
        raise ValueError("MAIL_FROM is no e-mail address") from None
    if not environment.mail_from.isprintable():
        raise ValueError("MAIL_FROM is more than one line")
    if not environment.mail_server:
        return MailServer(backend="django.core.mail.backends.console.EmailBackend")
    try:
        parts = urlsplit(environment.mail_server)
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    except ValueError:  # a port that is none; the error would repeat what may be a password
        raise ValueError("MAIL_SERVER has no readable host and port") from None
    if not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("MAIL_SERVER must be like smtp://user:password@host:587")
    if bool(parts.username) != bool(parts.password):
        raise ValueError("MAIL_SERVER needs a user and a password, or neither")
    if environment.env == "production" and parts.scheme == "smtp+plain" and host not in _THIS_MACHINE:
        raise ValueError("MAIL_SERVER would be given addresses without encryption, over a network")
    return MailServer(
        backend="django.core.mail.backends.smtp.EmailBackend",
        host=host,
        port=port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        uses_starttls=parts.scheme == "smtp",
        uses_tls=parts.scheme == "smtps",
    )
