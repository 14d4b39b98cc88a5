"""Orders with an address, and a mail server on loopback."""

from collections.abc import Callable, Iterator

import pytest
from pytest_django import Settings

from headshots.services import uploads
from headshots.services.orders import Placed
from tests.services.mails.orders_with_mails import ADDRESS
from tests.services.smtp_server import MailServer, mail_server


@pytest.fixture(autouse=True)
def unclean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def placed(place: Callable[..., Placed]) -> Placed:
    """A free order with an address, not yet assessed; the mail that it was placed is due."""
    return place(address=ADDRESS)


@pytest.fixture
def server(settings: Settings) -> Iterator[MailServer]:
    """A real mail server, and Django's real way to it."""
    with mail_server() as server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
        settings.EMAIL_USE_TLS = settings.EMAIL_USE_SSL = False
        settings.EMAIL_HOST_USER = settings.EMAIL_HOST_PASSWORD = ""
        yield server
