"""Every page and operation is made to fail with all canaries in the error's text."""

import io
import logging
import uuid
from dataclasses import dataclass

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from headshots.services.orders import Placed
from tests.api.conftest import bearer
from tests.logs.canaries import (
    FILE_NAME,
    PROMPT,
    QUERY,
    SENT,
    SPOKEN,
    TOKEN,
    CanaryError,
    assert_told_without_canaries,
    explode,
    photo_with_a_note,
)
from tests.web.conftest import hold

pytestmark = pytest.mark.slow

ORDER = "/orders/{order}/"
API = "/api/v1/orders/{order}"


@dataclass(frozen=True)
class Place:
    """A request that meets a function which breaks."""

    broken: str
    path: str
    method: str = "GET"

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.broken.rpartition('services.')[2]}"


PAGES = [
    Place("headshots.web.views.styles.published_everywhere", "/"),
    Place("headshots.web.pages.styles.published_everywhere", "/new"),
    Place("headshots.web.views.orders.place", "/new", "UPLOAD"),
    Place("headshots.services.uploads.clean", "/new", "UPLOAD"),
    Place("headshots.services.objects.create_keys", "/new", "UPLOAD"),
    Place("headshots.web.views.orders.find_by_token", "/o", "POST"),
    Place("headshots.web.views.maintenance.last_inspection", "/privacy"),
    Place("headshots.web.views.licence_of", "/terms"),
    Place("headshots.web.views.licence_of", "/licences/free"),
    Place("headshots.web.receipt_views.purge.find_deletion", "/receipts/7F3K-9QXD-2M5W-PZ8T"),
    Place("headshots.web.receipt_views.purge.find_deletion", "/receipts/7F3K-9QXD-2M5W-PZ8T/receipt.txt"),
    Place("headshots.web.receipt_views.signing.published_keys", "/verify"),
    Place("headshots.web.receipt_views.signing.published_keys", "/keys"),
    Place("headshots.web.receipt_views.audit.checkpoint_numbers", "/audit/checkpoint"),
    Place("headshots.web.health._reasons", "/readyz"),
    Place("headshots.web.links.token_of", ORDER),
    Place("headshots.services.progress.view", ORDER),
    Place("headshots.services.progress.view", ORDER + "progress"),
    Place("headshots.services.progress.view", ORDER + "headshots/1/"),
    Place("headshots.services.delivery.open_headshot", ORDER + "headshots/1/preview"),
    Place("headshots.services.objects.read", ORDER + "headshots/1/full"),
    Place("headshots.services.objects.open_object", ORDER + "headshots/1/download"),
    Place("headshots.services.delivery.finished_shots", ORDER + "archive.zip"),
    Place("headshots.services.export._facts", ORDER + "export.zip"),
    Place("headshots.services.payments.payable", ORDER + "checkout"),
    Place("headshots.services.redo._enter", ORDER + "headshots/1/redo", "POST"),
    Place("headshots.services.redo._choose", ORDER + "headshots/1/keep", "POST"),
    Place("headshots.services.fencing.begin", ORDER + "delete", "POST"),
]
OPERATIONS = [
    Place("headshots.api.routes.styles.published_everywhere", "/api/v1/styles"),
    Place("headshots.api.routes.sales.reason_against", "/api/v1/tiers"),
    Place("headshots.api.routes.challenges.create", "/api/v1/challenge"),
    Place("headshots.services.admission.network_of", "/api/v1/orders", "UPLOAD"),
    Place("headshots.services.limits.hmac.digest", "/api/v1/orders", "UPLOAD"),
    Place("headshots.services.challenges.spend", "/new", "UPLOAD"),
    Place("headshots.api.routes.orders.place", "/api/v1/orders", "UPLOAD"),
    Place("headshots.services.uploads.store_selfie", "/api/v1/orders", "UPLOAD"),
    Place("headshots.api.routes.orders.find", API),
    Place("headshots.services.tombstones.exists", API + "/headshots/1"),
    Place("headshots.services.delivery.finished_shots", API + "/archive.zip"),
    Place("headshots.services.uploads.tombstones.require_none", API + "/export.zip"),
    Place("headshots.services.queue_clock.reserve", API + "/headshots/1/redo", "POST"),
    Place("headshots.services.redo._locked", API + "/headshots/1/keep", "POST"),
    Place("headshots.services.fencing.begin", API, "DELETE"),
    Place("headshots.api.routes.purge.find_deletion", "/api/v1/receipts/7F3K-9QXD-2M5W-PZ8T"),
]


@pytest.mark.parametrize("spot", [*PAGES, *OPERATIONS], ids=str)
def test_a_page_or_operation_that_breaks_tells_nothing_of_anybody(
    client: Client,
    ready: Placed,
    selfie: bytes,
    written: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    spot: Place,
) -> None:
    hold(client, ready)
    client.raise_request_exception = False
    path = f"{spot.path.format(order=ready.order.pk)}?{QUERY}&token={TOKEN}"
    monkeypatch.setattr(spot.broken, explode)

    if spot.method == "UPLOAD":
        upload = SimpleUploadedFile(FILE_NAME, photo_with_a_note(selfie), "image/jpeg")
        agreed = {"consent": "yes", "adult": "yes", "upload_id": str(uuid.uuid4())}
        fields = {"tier": "free", **agreed, "selfie": upload, "note": PROMPT}
        response = client.post(path, fields, **SENT)  # type: ignore[arg-type]
    else:
        headers = bearer(ready.token)
        response = client.generic(spot.method, path, f"token={TOKEN}", headers=headers, **SENT)  # type: ignore[arg-type]

    assert response.status_code == 500
    assert_told_without_canaries(written)
    assert ready.token not in written.getvalue()


@pytest.mark.parametrize("path", [ORDER + "archive.zip", ORDER + "export.zip"])
def test_a_download_that_breaks_on_the_way_tells_nothing_of_anybody(
    client: Client, ready: Placed, written: io.StringIO, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    hold(client, ready)
    response = client.get(path.format(order=ready.order.pk), **SENT)  # type: ignore[arg-type]
    monkeypatch.setattr("headshots.services.delivery.objects.read", explode)

    with pytest.raises(CanaryError) as broken:
        response.getvalue()
    logging.getLogger("gunicorn.error").error("Error handling request %s", SPOKEN, exc_info=broken.value)

    assert_told_without_canaries(written)
