"""Who gets into the staff screens, and what no page of them ever shows."""

import base64
from collections.abc import Callable, Iterator

import pytest
from django.contrib import admin
from django.contrib.admin.utils import flatten_fieldsets
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from headshots import models
from headshots.models import Order, OrderKey, Selfie, Shot, StoredObject
from headshots.services import objects, purge
from tests.admin.conftest import JPEG, client_for, page_of

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

REGISTERED = sorted((model for model in admin.site._registry), key=lambda model: model._meta.label)
OURS = [model for model in REGISTERED if model._meta.app_label == "headshots"]
SECRET_FIELDS = {
    "wrapped",
    "token_sha256",
    "seed_root",
    "seed",
    "upload_id",
    "headshot",
    "preview",
    "stored",
    "sha256",
    "lease_token",
}


def changelist_of(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def change_of(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=(row.pk,))


def pages() -> Iterator[str]:
    """The dashboard, and for every registered model its list and the page of each of its rows."""
    yield "/admin/"
    yield "/admin/?store=count"
    for model in REGISTERED:
        yield changelist_of(model)
        for row in model._default_manager.all()[:4]:
            yield change_of(row)
            yield change_of(row).replace("/change/", "/history/")


@pytest.fixture
def everything(make_order: Callable[..., Order], premium: Order) -> list[str]:
    """A row of every model that staff may see; gives all that must stay out of their pages, as text."""
    make_order()
    deleted = make_order()
    purge.request(deleted, actor="customer", now=timezone.now())
    while purge.run(timezone.now()).waiting:
        pass
    models.Dispute.objects.create(
        payment=premium.payment,
        provider_id="dp_1",
        state=models.Dispute.State.OPEN,
        amount_cents=1900,
        opened_at=timezone.now(),
    )
    for model in OURS:
        assert model._default_manager.exists(), model
    live = Order.objects.filter(token_sha256__isnull=False)
    secrets = [str(order.token_sha256) for order in live]
    binary = [bytes(order.seed_root or b"") for order in live]
    binary += [bytes(wrapped) for wrapped in OrderKey.objects.values_list("wrapped", flat=True)]
    secrets += [text for value in binary for text in (value.hex(), base64.b64encode(value).decode())]
    secrets += [name.rsplit("/", 1)[-1] for name in objects.blobs().list("o/")]
    secrets += [str(stored.pk) for stored in StoredObject.objects.all()]
    secrets += StoredObject.objects.exclude(sha256="").values_list("sha256", flat=True)
    secrets += [str(seed) for seed in Shot.objects.exclude(seed=0).values_list("seed", flat=True)]
    assert len(secrets) > 100
    return secrets


def test_every_page_opens_and_none_shows_a_picture_key_token_or_blob_name(
    boss: Client, everything: list[str]
) -> None:
    opened = 0
    for url in pages():
        page = page_of(boss.get(url))
        assert [secret for secret in everything if secret in page] == [], url
        assert JPEG.decode("latin-1") not in page
        assert "<img" not in page.replace('<img src="/static/admin/', ""), url  # Django's own icons
        assert "headshots/1" not in page, url  # a link to a picture
        opened += 1
    assert opened > 2 * len(OURS)


def test_no_page_runs_inline_script_or_style(boss: Client, everything: list[str]) -> None:
    for url in pages():
        page = page_of(boss.get(url))
        assert "<style" not in page, url
        assert " style=" not in page, url
        assert "onclick=" not in page, url
        assert "<script>" not in page, url


def test_keys_and_stored_objects_have_no_page() -> None:
    hidden = {OrderKey, StoredObject, Selfie, models.StyleVersion, models.PaymentEvent}
    hidden |= {models.Incarnation, models.Inspection, models.QueueMark}  # for programs only
    hidden |= {models.NetworkCount, models.NetworkSalt, models.SpentChallenge}  # tell nobody anything
    hidden |= {models.Mail, models.MailAddress, models.LicenceGrant}  # what a customer was sent or granted
    ours = {
        model for model in models.__dict__.values() if isinstance(model, type) and issubclass(model, Model)
    }

    assert ours - set(OURS) == hidden


def test_no_screen_names_a_secret_field(boss: Client) -> None:
    for model in OURS:
        screen = admin.site._registry[model]
        request = boss.get("/admin/").wsgi_request
        detail = flatten_fieldsets(screen.get_fieldsets(request, model()))
        shown = {*screen.get_list_display(request), *detail}
        assert {str(name) for name in shown} & SECRET_FIELDS == set(), model


@pytest.mark.parametrize("model", [model for model in OURS if model is not models.Style])
def test_everything_but_styles_is_only_looked_at(boss: Client, model: type[Model]) -> None:
    screen = admin.site._registry[model]
    request = boss.get("/admin/").wsgi_request

    assert screen.has_view_permission(request)
    assert not screen.has_add_permission(request)
    assert not screen.has_change_permission(request)
    assert not screen.has_delete_permission(request)


def test_anonymous_visitors_and_customers_get_no_page(everything: list[str]) -> None:
    outsiders = (Client(), client_for("carl", "view_order", "change_order", "delete_order", is_staff=False))

    for client in outsiders:
        for url in pages():
            response = client.get(url)
            assert response.status_code == 302, url
            assert response.headers["Location"].startswith("/admin/login/"), url


def test_staff_without_permissions_get_the_front_page_without_numbers(everything: list[str]) -> None:
    client = client_for("nora", is_staff=True)

    assert "Orders by state" not in page_of(client.get("/admin/"))
    for url in pages():
        if not url.startswith("/admin/?") and url != "/admin/":
            assert client.get(url).status_code == 403, url


def test_an_unknown_order_is_not_a_server_error(boss: Client) -> None:
    for unknown in ("nonsense", "00000000-0000-0000-0000-000000000000"):
        assert boss.get(f"/admin/headshots/order/{unknown}/change/").status_code == 302
