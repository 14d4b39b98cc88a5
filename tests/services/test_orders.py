"""Orders: what placing one stores, what a refusal leaves behind, and how the frozen plan is made."""

import uuid
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from headshots.exceptions import NotFound, Refusal
from headshots.models import PRESET_FIELDS, ConsentRecord, Order, OrderKey, Shot, StoredObject, Style
from headshots.services import consent, objects, orders, styles, uploads
from headshots.services.orders import Placed
from headshots.states import ORDER_MOVES, OrderState, ShotState

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


def nothing_is_stored() -> bool:
    """Whether a refusal left no row and no object behind."""
    rows = Order, OrderKey, ConsentRecord, Shot, StoredObject
    return not any(model.objects.exists() for model in rows) and not list(objects.blobs().list("o/"))


def test_a_free_order_has_three_corporate_shots_and_a_sealed_selfie(placed: Placed) -> None:
    order = placed.order

    assert order.state == OrderState.ASSESSING
    assert [(s.index, s.style_version.style.slug, s.state) for s in order.shots.all()] == [
        (1, "corporate", "pending"),
        (2, "corporate", "pending"),
        (3, "corporate", "pending"),
    ]
    stored = StoredObject.objects.get()
    assert list(objects.blobs().list("o/")) == [f"o/{order.pk.hex}/{stored.pk.hex}"]
    sealed = objects.blobs().get(f"o/{order.pk.hex}/{stored.pk.hex}")
    assert sealed[:8] == b"HSE1\x01\x01\x00\x00"
    assert len(sealed) == stored.size_bytes


def test_a_premium_order_spreads_fifty_shots_and_ten_spares_over_the_eight_styles(
    place: Callable[..., Placed],
) -> None:
    order = place(tier_slug="premium").order

    per_style = Counter(order.shots.values_list("style_version__style__slug", flat=True))
    promised = order.shots.filter(index__lte=50)
    of_promised = Counter(promised.values_list("style_version__style__slug", flat=True))
    assert order.headshots == 50
    assert sorted(of_promised.values()) == [6, 6, 6, 6, 6, 6, 7, 7]
    assert sorted(per_style.values()) == [7, 7, 7, 7, 8, 8, 8, 8]
    assert len({shot.seed for shot in order.shots.all()}) == 60
    first_eight = order.shots.order_by("index")[:8].values_list("style_version__style__slug", flat=True)
    assert len(set(first_eight)) == 8


def test_the_plan_keeps_the_style_version_it_was_placed_with(placed: Placed, now: datetime) -> None:
    style = Style.objects.select_related("current").get(slug="corporate")
    assert style.current is not None
    before = style.current.pk
    fields = {name: getattr(style.current, name) for name in PRESET_FIELDS} | {"guidance_scale": 11.5}

    styles.add_version(style, fields, actor="anna", now=now)

    assert set(placed.order.shots.values_list("style_version_id", flat=True)) == {before}


def test_the_consent_is_recorded_with_its_text_and_time(place: Callable[..., Placed], now: datetime) -> None:
    record = ConsentRecord.objects.get(order=place(now=now).order)

    assert (record.text_version, record.text_sha256) == (consent.VERSION, consent.TEXT_SHA256)
    assert record.is_adult
    assert record.given_at == now


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"agreed": consent.Consent(is_given=False, is_adult=True)}, "consent_missing"),
        ({"agreed": consent.Consent(is_given=True, is_adult=False)}, "consent_missing"),
        ({"tier_slug": "gold"}, "unknown_tier"),
        ({"style_slugs": ("vampire",)}, "unknown_style"),
        ({"style_slugs": ("outdoor",)}, "style_not_in_tier"),
        ({"raw": b""}, "empty_file"),
        ({"raw": b"not a picture at all"}, "not_an_image"),
        ({"raw": bytes(25 * 1024 * 1024 + 1)}, "file_too_large"),
    ],
)
def test_a_refused_order_stores_nothing(
    place: Callable[..., Placed], changes: dict[str, object], code: str
) -> None:
    with pytest.raises(Refusal) as refused:
        place(**changes)

    assert refused.value.code == code
    assert nothing_is_stored()


def test_a_second_order_for_the_same_upload_is_refused(place: Callable[..., Placed]) -> None:
    upload_id = uuid.uuid4()
    first = place(upload_id=upload_id)

    with pytest.raises(Refusal, match="already_ordered"):
        place(upload_id=upload_id)

    assert list(Order.objects.all()) == [first.order]
    assert len(list(objects.blobs().list("o/"))) == 1


def test_a_retired_style_cannot_be_chosen(place: Callable[..., Placed], now: datetime) -> None:
    styles.set_status(Style.objects.get(slug="outdoor"), Style.Status.RETIRED, actor="anna", now=now)

    with pytest.raises(Refusal, match="unknown_style"):
        place(tier_slug="premium", style_slugs=("outdoor",))


def test_only_the_digest_of_the_token_is_stored(placed: Placed) -> None:
    order = Order.objects.get()

    assert placed.token.startswith("hso_")
    assert placed.token not in {str(value) for value in order.__dict__.values()}
    assert orders.find(order.pk, placed.token, timezone.now()) == order
    assert orders.find_by_token(placed.token, timezone.now()) == order


def test_unknown_foreign_and_expired_orders_are_the_same_not_found(place: Callable[..., Placed]) -> None:
    mine, theirs = place(), place()
    now = timezone.now()

    for order_id, token, at in (
        (uuid.uuid4(), mine.token, now),
        (theirs.order.pk, mine.token, now),
        (mine.order.pk, mine.token, mine.order.expires_at),
        (mine.order.pk, "hso_nonsense", now),
        (mine.order.pk, "", now),
    ):
        with pytest.raises(NotFound) as refused:
            orders.find(order_id, token, at)
        assert refused.value.code == "order_not_found"


def test_a_day_counts_from_the_hour_of_the_first_photo(placed: Placed) -> None:
    order = placed.order

    assert timedelta(hours=23) < order.not_after - order.created_at <= timedelta(hours=24)
    assert order.not_after - order.expires_at == timedelta(minutes=30)


def test_nothing_can_be_read_after_expiry_even_if_nothing_ran(placed: Placed) -> None:
    with pytest.raises(NotFound):
        uploads.open_selfie(placed.order, placed.order.expires_at)


def test_the_sealed_selfie_opens_as_a_clean_jpeg(placed: Placed, selfie: bytes) -> None:
    clean = uploads.open_selfie(placed.order, timezone.now())

    assert clean[:3] == b"\xff\xd8\xff"
    assert b"Exif" in selfie
    assert b"Exif" not in clean


def test_a_photo_without_a_face_is_refused_and_erased_at_once(placed: Placed) -> None:
    orders.refuse(placed.order, "no_face", timezone.now())

    order = Order.objects.get()
    assert (order.state, order.refusal_code) == (OrderState.REFUSED, "no_face")
    assert not OrderKey.objects.exists()
    assert not list(objects.blobs().list("o/"))
    with pytest.raises(NotFound):
        uploads.open_selfie(order, timezone.now())


def test_an_accepted_free_order_starts_at_once(
    placed: Placed, sent: list[tuple[str, tuple[str, ...]]]
) -> None:
    orders.accept(placed.order, timezone.now())

    assert Order.objects.get().state == OrderState.QUEUED


def test_an_accepted_premium_order_waits_for_its_payment(place: Callable[..., Placed]) -> None:
    order = place(tier_slug="premium").order

    orders.accept(order, timezone.now())

    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT


def test_only_one_worker_assesses_an_order(placed: Placed, now: datetime) -> None:
    first = orders.begin_assessment(placed.order.pk, now)
    second = orders.begin_assessment(placed.order.pk, now)
    later = orders.begin_assessment(placed.order.pk, now + timedelta(seconds=61))

    assert (first is not None, second, later is not None) == (True, None, True)
    assert Order.objects.get().assess_attempts == 2


def test_an_order_that_lost_all_its_shots_is_failed(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.update(state=ShotState.FAILED, error_code="engine_error")

    orders.finish(placed.order.pk, now)

    assert Order.objects.get().state == OrderState.FAILED


def test_staff_can_give_failed_shots_fresh_attempts(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    Order.objects.update(state=OrderState.FAILED, finished_at=now)
    Shot.objects.update(state=ShotState.FAILED, error_code="engine_error", attempts=3)

    revived = orders.retry_failed(placed.order, actor="anna", now=now)

    assert revived == 3
    assert set(Shot.objects.values_list("state", "attempts", "error_code")) == {("pending", 0, "")}
    assert Order.objects.get().state == OrderState.QUEUED


def test_a_move_that_the_table_does_not_allow_changes_nothing(placed: Placed) -> None:
    for target in (OrderState.READY, OrderState.RENDERING, OrderState.FAILED, OrderState.PURGED):
        assert Order.objects.filter(pk=placed.order.pk).move(target) == 0
    assert Shot.objects.filter(order=placed.order).move(ShotState.DONE) == 0

    assert Order.objects.get().state == OrderState.ASSESSING
    assert set(Shot.objects.values_list("state", flat=True)) == {"pending"}


def test_every_state_but_the_last_has_a_way_to_the_purge() -> None:
    reachable = {OrderState.PURGED}
    for _ in OrderState:
        reachable |= {state for state, targets in ORDER_MOVES.items() if reachable & set(targets)}

    assert reachable == set(OrderState)
