"""Free stays free: no request makes premium's styles, sizes, numbers or unmarked pixels out of a free order.

The routes are taken from the URLconf, so one that is added later is asked the same. Whatever looks like a
picture in an answer, also inside a ZIP, must be one of the stored pictures of the free order, byte for byte.
"""

import io
import itertools
import json
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone
from PIL import Image

from headshots import tasks
from headshots.models import Order, Shot, StoredObject
from headshots.services import claiming, objects, orders, shots, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from headshots.vault.envelope import Kind
from pipelines import finish
from pipelines.images import decode_jpeg
from pipelines.sample import sample_selfie
from tests.api.conftest import bearer, plain_jpeg
from tests.paying import pay
from tests.rendered import rendered
from tests.web.conftest import hold
from tests.web.test_routes import ROUTES, content_of, filled

pytestmark = pytest.mark.slow

FREE_EDGE = 1152
PICTURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP|ftyp(avif|heic)|II\*\x00|MM\x00\*", re.DOTALL)
INDEXES = ("0", "1", "2", "3", "4", "5", "8", "50", "99", "-1", "01", "1.0", "None", "1?raw=1")
# What somebody might try: names of our own fields, of other services' and of image servers'.
WISHES: Mapping[str, str] = dict(
    parse_qsl(
        "tier=premium&styles=tech&style=executive&style_slugs=tech&count=50&headshots=50&n=50&index=4&"
        "long_edge=3840&size=3840&width=2987&height=3840&w=3840&scale=4&resolution=4k&quality=100&"
        "format=png&watermark=false&is_watermarked=false&marked=0&raw=1&original=1&full=true&"
        "preview=false&kind=17&price=0&price_cents=1900&paid=true&licence=commercial&seed=1&"
        "engine=instantid&state=queued&generation=2&redo=1&admin=1&debug=1"
    )
)
SECRETS = ("order", "order_id", "token", "private_link")  # filled with another customer's


@dataclass(frozen=True)
class Pair:
    """A finished free order whose customer asks for more, and somebody's finished premium order beside it."""

    free: Placed
    premium: Placed
    browser: Client
    allowed: frozenset[bytes]

    def wishes(self) -> dict[str, str]:
        order, token = str(self.premium.order.pk), self.premium.token
        return {**WISHES, **dict(zip(SECRETS, (order, order, token, token), strict=True))}

    def ask(self, method: str, path: str, **sent: Any) -> Any:
        """As the free order's customer, in the browser and with the API's token at once."""
        headers = {**bearer(self.free.token), **sent.pop("headers", {})}
        return self.browser.generic(method, path, headers=headers, **sent)


def stored(order: Order) -> dict[tuple[int, int], bytes]:
    """Every sealed object of an order, opened, by kind and index."""
    now = timezone.now()
    rows = StoredObject.objects.filter(order=order, state=StoredObject.State.STORED)
    return {(row.kind, row.index): objects.read(row, now) for row in rows.select_related("order")}


def make(count: int, width: int, height: int) -> None:
    """Finish the claimable shots with plain pictures, each of its own bytes."""
    large, small = plain_jpeg(width, height), plain_jpeg(448, 576)
    for claimed in claiming.claim("worker", count, timezone.now()):
        own = str(claimed.shot.pk).encode()
        made = rendered(claimed, large + own, small + own, width=width, height=height)
        assert shots.commit(claimed, made, timezone.now())


@pytest.fixture
def pair(place: Callable[..., Placed], monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)
    free = place(raw=plain_jpeg(640, 640))
    orders.accept(free.order, timezone.now())
    make(3, 896, FREE_EDGE)
    premium = place(tier_slug="premium", raw=plain_jpeg(64, 64))
    premium.order.shots.filter(index__gt=8).delete()
    Order.objects.filter(pk=premium.order.pk).update(headshots=8)
    order = Order.objects.get(pk=premium.order.pk)
    orders.accept(order, timezone.now())
    pay(Order.objects.get(pk=order.pk), timezone.now())
    make(8, 2987, 3840)
    assert Order.objects.get(pk=order.pk).state == OrderState.READY
    browser = Client(raise_request_exception=False)
    hold(browser, free)
    browser.cookies[f"order-{order.pk.hex}"] = free.token
    return Pair(free, premium, browser, frozenset(stored(Order.objects.get(pk=free.order.pk)).values()))


def pictures_in(answer: Any) -> list[bytes]:
    """Everything in an answer that is a picture, or may hold one."""
    content = content_of(answer)
    if content[:2] == b"PK":
        files = zipfile.ZipFile(io.BytesIO(content))
        return [entry for name in files.namelist() if PICTURE.search(entry := files.read(name))]
    is_picture = answer.headers.get("Content-Type", "").startswith("image/") or PICTURE.search(content)
    return [content] if is_picture else []


def look_through(pair: Pair, answers: Iterator[tuple[str, Any]]) -> int:
    """How many pictures came back, all of them the free order's own as they are stored."""
    found = 0
    for named, answer in answers:
        assert answer.status_code < 500, named
        for content in pictures_in(answer):
            assert content in pair.allowed, named
            found += 1
    return found


def safe(route: str, method: str) -> bool:
    """Whether asking neither ends the order that is asked about nor uses up its redo: see test_redo."""
    return method != "DELETE" and not route.endswith(("/delete", "/redo"))


def the_plan_is_untouched(pair: Pair) -> None:
    order = Order.objects.get(pk=pair.free.order.pk)
    assert (order.tier, order.headshots, order.long_edge, order.is_watermarked, order.price_cents) == (
        "free",
        3,
        FREE_EDGE,
        True,
        0,
    )
    assert order.state == OrderState.READY
    slugs = order.shots.values_list("style_version__style__slug", flat=True)
    assert list(slugs) == ["corporate"] * 3
    assert Order.objects.count() == 2


# --- what is stored -----------------------------------------------------------------------------------------


def test_the_stored_pictures_of_a_free_order_are_small_and_marked(
    placed: Placed, render_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[bytes] = []
    watermarked = finish._watermarked

    def kept(picture: Any) -> Any:
        plain.append(np.ascontiguousarray(picture[..., ::-1]).tobytes())  # OpenCV's order
        return watermarked(picture)

    monkeypatch.setattr(finish, "_watermarked", kept)
    tasks._engine.cache_clear()

    render_all()

    files = stored(Order.objects.get())
    large = [files[key] for key in sorted(files) if key[0] == Kind.HEADSHOT]
    small = [files[key] for key in sorted(files) if key[0] == Kind.PREVIEW]
    assert (len(large), len(small), len(plain)) == (3, 3, 3)
    for picture in (*large, *small):
        assert max(Image.open(io.BytesIO(picture)).size) <= FREE_EDGE
    for picture, before in zip(large, plain, strict=True):
        pixels = decode_jpeg(picture)
        bare = np.frombuffer(before, dtype=np.uint8).reshape(pixels.shape)
        changed = np.abs(pixels.astype(int) - bare).max(axis=2) > 12
        for block in itertools.chain.from_iterable(
            np.array_split(rows, 3, axis=1) for rows in np.array_split(changed, 5)
        ):
            assert block.any()  # the mark is in every part


# --- what comes back ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_route_with_every_wish_gives_the_free_pictures_as_they_are_stored(pair: Pair) -> None:
    wishes = pair.wishes()
    form = "&".join(f"{name}={value}" for name, value in wishes.items())
    carriers: dict[str, dict[str, Any]] = {
        "query": {"QUERY_STRING": form},
        "form": {"data": form, "content_type": "application/x-www-form-urlencoded"},
        "json": {"data": json.dumps(wishes), "content_type": "application/json"},
        "headers": {"headers": {f"X-{name.replace('_', '-')}": value for name, value in wishes.items()}},
        "accept": {"headers": {"Accept": "image/png, image/webp;q=0.9, application/octet-stream"}},
        "range": {"headers": {"Range": "bytes=0-9", "Width": "3840", "DPR": "4", "Sec-CH-Width": "3840"}},
        "method": {"headers": {"X-HTTP-Method-Override": "PUT", "X-Original-URL": "/admin/"}},
    }

    def asked() -> Iterator[tuple[str, Any]]:
        for route, method in itertools.product(ROUTES, ("GET", "POST", "PUT", "PATCH", "OPTIONS")):
            path = filled(route, order_id=str(pair.free.order.pk))
            is_asked = safe(route, method) and ("order_id" in route or method in ("GET", "POST"))
            for name, sent in carriers.items() if is_asked else ():
                yield f"{method} {route} {name}", pair.ask(method, path, **dict(sent))

    assert look_through(pair, asked()) > 60
    the_plan_is_untouched(pair)


PICTURE_ROUTES = [
    route
    for route in ROUTES
    if "order_id" in route and re.search(r"headshots|\.zip", route) and not route.endswith(("redo", "keep"))
]


@pytest.mark.slow
@pytest.mark.parametrize("route", PICTURE_ROUTES)
def test_no_single_wish_changes_a_picture(pair: Pair, route: str) -> None:
    path = filled(route, order_id=str(pair.free.order.pk))

    def asked() -> Iterator[tuple[str, Any]]:
        for name, value in pair.wishes().items():
            yield f"{route} {name}", pair.ask("GET", path, QUERY_STRING=f"{name}={value}&{name}=1")

    found = look_through(pair, asked())
    assert found or not route.endswith(("full", "download", "preview", ".zip", "<index>"))
    the_plan_is_untouched(pair)


@pytest.mark.parametrize("route", [route for route in PICTURE_ROUTES if "index" in route])
def test_there_is_no_fourth_picture(pair: Pair, route: str) -> None:
    answers = {}
    for index in INDEXES:
        answer = pair.ask("GET", filled(route, order_id=str(pair.free.order.pk), index=index))
        look_through(pair, iter([(f"{route} {index}", answer)]))
        answers[index] = answer.status_code

    assert {index for index, status in answers.items() if status == 200} <= {
        "1",
        "2",
        "3",
        "01",
        "1.0",
        "1?raw=1",
    }
    assert [answers[index] for index in ("1", "2", "3", "4", "0", "50")] == [200, 200, 200, 404, 404, 404]


@pytest.mark.parametrize("route", PICTURE_ROUTES)
def test_a_free_customers_keys_open_no_premium_picture(pair: Pair, route: str) -> None:
    """The cookie of the premium order's name holds the free order's token; so does the header."""
    for index in ("1", "3", "8"):
        path = filled(route, order_id=str(pair.premium.order.pk), index=index)
        answer = pair.ask("GET", path, QUERY_STRING=f"order_id={pair.free.order.pk}")

        assert answer.status_code == 404
        assert pictures_in(answer) == []


def test_the_sweep_would_see_a_premium_picture(pair: Pair) -> None:
    """Its own customer gets it, and it is none that the free one may have."""
    theirs = Client().get(
        f"/api/v1/orders/{pair.premium.order.pk}/headshots/1", headers=bearer(pair.premium.token)
    )
    archive = Client().get(
        f"/api/v1/orders/{pair.premium.order.pk}/archive.zip", headers=bearer(pair.premium.token)
    )

    for answer, count in ((theirs, 1), (archive, 8)):
        seen = pictures_in(answer)
        assert len(seen) == count
        assert not pair.allowed & set(seen)
    with pytest.raises(AssertionError):
        look_through(pair, iter([("premium", theirs)]))


def test_the_zips_of_a_free_order_name_corporate_alone(pair: Pair) -> None:
    for name, pictures in (("archive", 3), ("export", 7)):  # the export holds previews and the photo too
        answer = pair.ask("GET", f"/api/v1/orders/{pair.free.order.pk}/{name}.zip")
        content = content_of(answer)
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()

        named = {slug for entry in names for slug in re.findall(r"headshot-\d\d-([a-z]+)", entry)}
        assert named == {"corporate"}
        held = zipfile.ZipFile(io.BytesIO(content))
        assert sum(bool(PICTURE.search(held.read(entry))) for entry in names) == pictures


# --- what can be ordered ------------------------------------------------------------------------------------


@pytest.fixture
def uncleaned(built_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


def post(path: str, fields: dict[str, Any], query: str = "", headers: dict[str, str] | None = None) -> Any:
    usual = {"consent": "true", "adult": "true", "upload_id": str(uuid.uuid4()), "tier": "free"}
    photo = SimpleUploadedFile("me.jpg", sample_selfie(), "image/jpeg")
    sent = {**usual, "selfie": photo, **fields}
    return Client().post(f"{path}?{query}", sent, headers=headers or {})


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
def test_a_free_order_is_three_small_marked_corporates_whatever_is_posted_with_it(
    uncleaned: None, path: str
) -> None:
    placed = 0
    for name, value in WISHES.items():
        wish = {} if name == "tier" else {name: value}
        answer = post(path, wish, query=f"{name}={value}", headers={f"X-{name}": value})
        placed += answer.status_code in (201, 302)

    assert placed == Order.objects.count() >= len(WISHES) - 1  # the API refuses another tier's style
    plans = "tier", "headshots", "long_edge", "is_watermarked", "price_cents"
    assert set(Order.objects.values_list(*plans)) == {("free", 3, FREE_EDGE, True, 0)}
    assert set(Shot.objects.values_list("style_version__style__slug", flat=True)) == {"corporate"}
    assert Shot.objects.count() == 3 * placed


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
@pytest.mark.parametrize(
    ("fields", "query"),
    [
        ({"tier": ["free", "premium"]}, ""),
        ({"tier": ["premium", "free"]}, ""),
        ({"tier": "free"}, "tier=premium"),
        ({"tier": "premium"}, "tier=free"),
        ({"tier": "premium", "price_cents": "0", "price": "0", "paid": "true"}, "paid=1"),
        ({"tier": ["free", "premium"], "styles": ["tech", "corporate"]}, "styles=tech"),
    ],
)
def test_of_two_tiers_one_counts_whole_and_premium_waits_for_its_money(
    uncleaned: None, path: str, fields: dict[str, Any], query: str
) -> None:
    post(path, fields, query)

    for order in Order.objects.all():
        orders.accept(order, timezone.now())
        tier = TIERS[order.tier]
        assert (order.long_edge, order.is_watermarked, order.price_cents) == (
            tier.long_edge,
            tier.is_watermarked,
            tier.price_cents,
        )
    claimed = claiming.claim("worker", 99, timezone.now())
    assert {each.shot.order.tier for each in claimed} <= {"free"}
    paid = Order.objects.filter(tier="premium")
    assert not paid.exclude(state=OrderState.AWAITING_PAYMENT).exists()
    assert not Shot.objects.filter(order__in=paid).exclude(state=ShotState.PENDING).exists()


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
@pytest.mark.parametrize("tier", ["FREE", "free ", "premium\x00", "pro", "", "0", "null"])
def test_a_tier_that_is_none_orders_nothing(uncleaned: None, path: str, tier: str) -> None:
    response = post(path, {"tier": tier})

    assert response.status_code in (400, 422)
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    "slug", ["executive", "creative", "tech", "academic", "healthcare", "casual", "outdoor"]
)
def test_no_premium_style_is_made_for_free(uncleaned: None, slug: str) -> None:
    for styles in ([slug], [f"corporate,{slug}"], ["corporate", slug], [slug.upper()]):
        response = post("/api/v1/orders", {"styles": styles})

        assert response.status_code == 422
    assert not Order.objects.exists()
