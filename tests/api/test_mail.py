"""The API's field for an address: optional, checked, never given back."""

import pytest
from django.core import mail
from django.utils import timezone

from headshots.models import MailAddress
from headshots.services import mails
from tests.api.conftest import Post, assert_refused
from tests.web.conftest import nothing_is_stored

pytestmark = pytest.mark.django_db


def test_an_address_is_written_to_and_not_shown(post_order: Post) -> None:
    created = post_order(email="ada@example.org")

    assert created.status_code == 201
    assert "ada@example.org" not in created.content.decode()
    assert mails.run(timezone.now()).sent == 1
    assert mail.outbox[0].to == ["ada@example.org"]
    assert created.json()["links"]["private_link"] in mail.outbox[0].body


def test_no_address_is_no_mail(post_order: Post) -> None:
    assert post_order().status_code == 201
    assert not MailAddress.objects.exists()


def test_a_wrong_address_is_refused_and_nothing_is_stored(post_order: Post) -> None:
    assert_refused(post_order(email="ada@example.org\nBcc: eve@example.org"), "bad_address")
    assert nothing_is_stored()
