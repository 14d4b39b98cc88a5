"""Where mails go is said in full, or the service does not start; production never prints them."""

import pytest
from django.conf import settings

from headshots.env import Environment, embedded_defaults
from headshots.mail_settings import MailServer, read_mail_server

CONSOLE = "django.core.mail.backends.console.EmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"


def environment(**values: str) -> Environment:
    return Environment.model_validate(values)


def test_mails_are_printed_by_default_and_production_names_both_settings() -> None:
    assert read_mail_server(environment()) == MailServer(backend=CONSOLE)
    assert {"MAIL_SERVER", "MAIL_FROM"} <= set(embedded_defaults(environment()))

    complete = environment(MAIL_SERVER="smtp://mail.example", MAIL_FROM="hello@headshots.example")
    assert not {"MAIL_SERVER", "MAIL_FROM"} & set(embedded_defaults(complete))
    assert "MAIL_FROM" in embedded_defaults(environment(MAIL_FROM="Headshots <hello@localhost>"))


@pytest.mark.parametrize(
    ("address", "server"),
    [
        (
            "smtp://mail.example",
            MailServer(backend=SMTP, host="mail.example", port=587, uses_starttls=True),
        ),
        (
            "smtps://us%40er:p%2Fss@mail.example",
            MailServer(
                backend=SMTP, host="mail.example", port=465, user="us@er", password="p/ss", uses_tls=True
            ),
        ),
        ("smtp+plain://127.0.0.1:1025", MailServer(backend=SMTP, host="127.0.0.1", port=1025)),
        ("smtp+plain://[::1]", MailServer(backend=SMTP, host="::1", port=25)),
    ],
)
def test_an_address_names_server_port_user_and_encryption(address: str, server: MailServer) -> None:
    assert read_mail_server(environment(MAIL_SERVER=address)) == server


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"MAIL_SERVER": "smtp://mail.example:many"}, "MAIL_SERVER has no readable host and port"),
        ({"MAIL_SERVER": "smtp://"}, "MAIL_SERVER must be like smtp://user:password@host:587"),
        ({"MAIL_SERVER": "smtp://mail.example/box"}, "MAIL_SERVER must be like"),
        ({"MAIL_SERVER": "smtp://mail.example?tls=no"}, "MAIL_SERVER must be like"),
        ({"MAIL_SERVER": "smtp://user@mail.example"}, "MAIL_SERVER needs a user and a password, or neither"),
        ({"MAIL_FROM": "Headshots"}, "MAIL_FROM is no e-mail address"),
        ({"MAIL_FROM": "hello@headshots.example\nBcc: x@y.example"}, "MAIL_FROM is more than one line"),
        (
            {"MAIL_SERVER": "smtp+plain://mail.example", "HEADSHOTS_ENV": "production"},
            "MAIL_SERVER would be given addresses without encryption, over a network",
        ),
    ],
)
def test_what_cannot_work_is_named_without_its_password(values: dict[str, str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_mail_server(environment(**values))


def test_a_relay_on_the_machine_itself_may_be_plain_in_production() -> None:
    values = {"MAIL_SERVER": "smtp+plain://localhost", "HEADSHOTS_ENV": "production"}

    assert read_mail_server(environment(**values)).host == "localhost"


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="MAIL_SERVER"):
        environment(MAIL_SERVER="http://mail.example")


def test_a_password_is_not_shown() -> None:
    server = read_mail_server(environment(MAIL_SERVER="smtps://ada:pa55word@mail.example"))

    assert "pa55word" not in repr(server)


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_a_claim_lasts() -> None:
    from headshots.services.mails import FIRST_PAUSE

    assert settings.EMAIL_TIMEOUT == 20
    assert FIRST_PAUSE.total_seconds() > settings.EMAIL_TIMEOUT
