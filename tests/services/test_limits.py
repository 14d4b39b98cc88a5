"""A network's orders are counted for an hour and a day, and no address is kept to do it."""

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from headshots.exceptions import Refusal, TooMany
from headshots.models import NetworkCount, NetworkSalt, Order
from headshots.services import limits, maintenance, objects, uploads
from headshots.services.admission import Visitor
from headshots.services.networks import UNKNOWN, Hops, network_of, parse_networks
from headshots.services.orders import Placed
from headshots.tiers import TIERS, Tier
from headshots.vault.errors import StoreAway
from headshots.vault.keys import epoch_of
from pipelines.errors import Retryable

pytestmark = pytest.mark.slow

NETWORK = "203.0.113.77/32"
OTHER = "2001:db8:7:7::/64"
FREE, PREMIUM = TIERS["free"], TIERS["premium"]


@pytest.fixture(autouse=True)
def limited(settings: Settings) -> None:
    settings.FREE_PER_HOUR, settings.FREE_PER_DAY = 2, 3
    settings.PREMIUM_PER_HOUR, settings.PREMIUM_PER_DAY = 2, 3
    limits._clear.clear()


@pytest.fixture
def noon(now: datetime) -> datetime:
    """A quarter past this hour began, or the hour before it: the day's salt is made for a real hour."""
    return now.replace(minute=15, second=0, microsecond=0) - timedelta(hours=now.minute < 15)


def waits(network: str, now: datetime, tier: Tier = FREE) -> int:
    """How many seconds a network has to wait; 0 when it need not."""
    try:
        limits.require_room(network, tier, now)
    except TooMany as refused:
        return refused.retry_after_seconds
    return 0


# --- counting -----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_next_one_waits_for_the_end_of_the_hour(noon: datetime) -> None:
    limits.count(NETWORK, FREE, noon)
    assert waits(NETWORK, noon) == 0
    limits.count(NETWORK, FREE, noon)

    assert waits(NETWORK, noon) == 45 * 60
    assert waits(NETWORK, noon + timedelta(minutes=44, seconds=59.5)) == 1
    assert waits(OTHER, noon) == 0
    with pytest.raises(TooMany):
        limits.count(NETWORK, FREE, noon)


@pytest.mark.django_db
def test_the_day_is_longer_than_the_hour(noon: datetime, settings: Settings) -> None:
    settings.FREE_PER_HOUR = 100
    for _ in range(3):
        limits.count(NETWORK, FREE, noon)

    midnight = datetime(noon.year, noon.month, noon.day, tzinfo=UTC) + timedelta(days=1)
    assert waits(NETWORK, noon) == (midnight - noon).total_seconds()


@pytest.mark.django_db
def test_an_order_that_is_not_written_is_not_counted(
    place: Callable[..., Placed], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = Visitor(network=NETWORK)
    with pytest.raises(Refusal, match="not_an_image"):
        place(raw=b"no photo", visitor=visitor, now=now)
    monkeypatch.setattr(objects, "create_keys", _explode)
    with pytest.raises(RuntimeError):
        place(visitor=visitor, now=now)

    assert not NetworkCount.objects.filter(count__gt=0).exists()


def _explode(*args: object) -> None:
    raise RuntimeError


@pytest.mark.django_db
def test_free_and_premium_orders_of_a_network_are_counted_apart(
    place: Callable[..., Placed], now: datetime, settings: Settings
) -> None:
    settings.FREE_PER_HOUR, settings.PREMIUM_PER_HOUR = 1, 2
    visitor = Visitor(network=NETWORK)
    place(visitor=visitor, now=now)
    place(tier_slug="premium", visitor=visitor, now=now)
    place(tier_slug="premium", visitor=visitor, now=now)

    for tier, code in ((FREE, "too_many"), (PREMIUM, "too_many_premium")):
        with pytest.raises(TooMany) as refused:
            place(tier_slug=tier.slug, visitor=visitor, now=now)
        assert refused.value.code == code
    assert Order.objects.count() == 3

    for tier in (FREE, PREMIUM):
        place(tier_slug=tier.slug, visitor=Visitor(network=OTHER), now=now)
        place(tier_slug=tier.slug, now=now)  # by a program of ours
    assert Order.objects.count() == 7


@pytest.mark.django_db
def test_premium_orders_have_a_day_too_and_the_longer_wait_is_told(
    noon: datetime, settings: Settings
) -> None:
    settings.PREMIUM_PER_HOUR = settings.PREMIUM_PER_DAY = 1
    limits.count(NETWORK, PREMIUM, noon)

    midnight = datetime(noon.year, noon.month, noon.day, tzinfo=UTC) + timedelta(days=1)
    assert waits(NETWORK, noon, PREMIUM) == (midnight - noon).total_seconds()
    assert (waits(NETWORK, noon, FREE), waits(OTHER, noon, PREMIUM)) == (0, 0)


@pytest.mark.django_db
def test_a_premium_order_over_the_limit_costs_no_look_at_its_photo(
    place: Callable[..., Placed], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        limits.count(NETWORK, PREMIUM, now)
    monkeypatch.setattr(uploads, "clean", _explode)

    with pytest.raises(TooMany):
        place(tier_slug="premium", visitor=Visitor(network=NETWORK), now=now)

    assert not Order.objects.exists()


@pytest.mark.django_db
def test_a_mail_address_is_given_for_so_many_free_orders_a_day_from_whatever_networks(
    place: Callable[..., Placed], noon: datetime, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FREE_PER_ADDRESS = 2
    networks = (Visitor(network=f"203.0.113.{last}/32") for last in range(9))
    place(address="someone@example.org", visitor=next(networks), now=noon)
    place(address=" Someone+work@Example.org", visitor=next(networks), now=noon)

    with monkeypatch.context() as patched:
        patched.setattr(uploads, "clean", _explode)  # refused before its photo is looked at
        with pytest.raises(TooMany) as refused:
            place(address="someone@example.org", visitor=next(networks), now=noon)

    midnight = datetime(noon.year, noon.month, noon.day, tzinfo=UTC) + timedelta(days=1)
    assert refused.value.code == "too_many_mails"
    assert refused.value.retry_after_seconds == (midnight - noon).total_seconds()
    assert Order.objects.count() == 2

    place(visitor=next(networks), now=noon)  # without an address
    place(address="other@example.org", visitor=next(networks), now=noon)
    place(tier_slug="premium", address="someone@example.org", visitor=next(networks), now=noon)
    assert Order.objects.count() == 5


@pytest.mark.django_db
def test_the_faster_of_two_has_the_last_place(
    place: Callable[..., Placed], now: datetime, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FREE_PER_HOUR = 1
    limits.count(NETWORK, FREE, now)
    monkeypatch.setattr(limits, "require_room", lambda *asked: None)  # both looked before either counted

    with pytest.raises(TooMany):
        place(visitor=Visitor(network=NETWORK), now=now)

    assert not Order.objects.exists()


# --- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_count_lies_under_a_digest_of_the_days_salt(noon: datetime) -> None:
    limits.count(NETWORK, FREE, noon)

    (salt,) = limits._clear.values()
    told = (f"free|hour|{noon.replace(minute=0).isoformat()}|{NETWORK}").encode()
    digest = hmac.digest(salt, told, hashlib.sha256).hex()
    assert NetworkCount.objects.get(digest=digest).count == 1
    assert NetworkCount.objects.count() == 2
    assert len(salt) == 32
    assert salt not in bytes(NetworkSalt.objects.get().wrapped)


@pytest.mark.django_db
def test_the_salt_dies_with_the_day_it_was_made_for(noon: datetime, now: datetime) -> None:
    limits.count(NETWORK, FREE, noon)
    tomorrow = now + timedelta(days=1)

    maintenance.run_pass(tomorrow)

    assert (NetworkSalt.objects.count(), NetworkCount.objects.count(), limits._clear) == (0, 0, {})


@pytest.mark.django_db
def test_a_count_ends_with_its_hour_and_the_day_goes_on(noon: datetime) -> None:
    midnight = noon.replace(hour=0, minute=0)
    if noon.hour == 23:
        pytest.skip("the next hour is the next day")
    limits.count(NETWORK, FREE, noon)

    assert limits.prune(noon + timedelta(hours=1)) == 1

    assert NetworkCount.objects.get().ends_at == midnight + timedelta(days=1)
    assert NetworkSalt.objects.count() == 1


@pytest.mark.django_db
def test_a_kept_copy_cannot_be_opened_once_the_hours_key_is_destroyed(noon: datetime) -> None:
    limits.count(NETWORK, FREE, noon)
    (before,) = NetworkSalt.objects.all()
    assert before.epoch == epoch_of(noon)
    objects.epochs().destroy(before.epoch)
    limits._clear.clear()

    with pytest.raises(Refusal, match="clock_skew"):  # this hour's key is gone, and none can be made for it
        waits(NETWORK, noon)
    assert not NetworkSalt.objects.exists()


@pytest.mark.django_db
def test_a_salt_that_cannot_be_opened_is_replaced(noon: datetime, settings: Settings) -> None:
    settings.FREE_PER_HOUR = 1
    limits.count(NETWORK, FREE, noon)
    NetworkSalt.objects.update(wrapped=b"what another installation wrote")
    limits._clear.clear()

    assert waits(NETWORK, noon) == 0

    assert NetworkSalt.objects.count() == 1


@pytest.mark.django_db
def test_a_store_that_is_away_asks_the_customer_to_come_again(
    noon: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: object, **kwargs: object) -> None:
        raise StoreAway

    monkeypatch.setattr(type(objects.epochs()), "wrap", away)
    with pytest.raises(Retryable):
        waits(NETWORK, noon)
    monkeypatch.undo()
    limits.count(NETWORK, FREE, noon)
    limits._clear.clear()
    monkeypatch.setattr(type(objects.epochs()), "unwrap", away)
    with pytest.raises(Retryable):
        waits(NETWORK, noon)
    assert NetworkSalt.objects.count() == 1


@pytest.mark.django_db
def test_every_process_counts_together(noon: datetime) -> None:
    limits.count(NETWORK, FREE, noon)
    limits._clear.clear()  # another process has not seen the salt yet
    limits.count(NETWORK, FREE, noon)

    assert sorted(NetworkCount.objects.values_list("count", flat=True)) == [2, 2]


# --- no address anywhere ------------------------------------------------------------------------------------

ADDRESSES = ("203.0.113.77", "2001:db8:dead:beef:1:2:3:4")


def forms_of(address: str) -> list[str]:
    """How an address or its network might be written, hidden badly too."""
    parsed, network = ipaddress.ip_address(address), network_of(Hops(peer=address), ())
    plain = (address, parsed.exploded, network, network.partition("/")[0].removesuffix("::"))
    hashes = (make(text.encode()).hexdigest() for text in plain for make in (hashlib.sha256, hashlib.md5))
    return [*plain, *hashes, parsed.reverse_pointer, str(int(parsed)), parsed.packed.hex()]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_address_reaches_the_database_a_log_or_a_file(
    built_in: None,
    selfie: bytes,
    data: Path,
    address: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = Client(REMOTE_ADDR=address, HTTP_X_FORWARDED_FOR=f"{address}, 192.0.2.9")
    statuses = []
    for _ in range(3):
        photo = SimpleUploadedFile("me.jpg", selfie, "image/jpeg")
        sent = {"tier": "free", "consent": "true", "selfie": photo}
        statuses.append(browser.post("/api/v1/orders", sent).status_code)

    assert statuses == [201, 201, 429]
    assert NetworkCount.objects.count() == 2
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
        rows = []
        for name in names:
            cursor.execute(f'SELECT * FROM "{name}"')
            rows += cursor.fetchall()
    stored = repr(rows)
    written = [path.read_bytes() for path in data.rglob("*") if path.is_file()]
    if connection.vendor == "sqlite":
        file = Path(str(connection.settings_dict["NAME"]))
        written += [path.read_bytes() for path in file.parent.glob(f"{file.name}*")]
    said = caplog.text + "".join(capfd.readouterr())
    assert len(rows) > 50
    assert written
    for form in forms_of(address):
        assert form not in stored
        assert form not in said
        assert not [each for each in written if form.encode() in each]


# --- whose network it is ------------------------------------------------------------------------------------

PROXIES = parse_networks("10.0.0.0/8, fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "network"),
    [
        ("203.0.113.77", "", "203.0.113.77/32"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.77", "", "203.0.113.77/32"),
        ("203.0.113.77", "198.51.100.1", "203.0.113.77/32"),  # no proxy of ours: what it says does not count
        ("10.0.0.1", "198.51.100.1", "198.51.100.1/32"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1/32"),  # the first was made up by the customer
        ("10.0.0.1", "1.2.3.4, 198.51.100.1, 10.0.0.2", "198.51.100.1/32"),
        ("fd00::1", "2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1/32"),
        ("10.0.0.1", "[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        ("10.0.0.1", "nonsense", "10.0.0.1/32"),
        ("10.0.0.1", "1.2.3.4, nonsense", "10.0.0.1/32"),
        ("10.0.0.1", "", "10.0.0.1/32"),
        ("10.0.0.1", " , ", "10.0.0.1/32"),
        ("fe80::1%eth0", "", "fe80::/64"),
        ("", "198.51.100.1", UNKNOWN),
        ("unix:", "", UNKNOWN),
    ],
)
def test_the_network_is_that_of_the_last_hop_that_is_not_ours(
    peer: str, forwarded: str, network: str
) -> None:
    assert network_of(Hops(peer=peer, forwarded_for=forwarded), PROXIES) == network


@given(st.text(max_size=40), st.text(max_size=80))
def test_no_header_breaks_it(peer: str, forwarded: str) -> None:
    assert network_of(Hops(peer=peer, forwarded_for=forwarded), PROXIES)


def test_an_address_is_not_in_what_is_printed_of_it() -> None:
    hops = Hops(peer=ADDRESSES[0], forwarded_for=ADDRESSES[1])

    assert not [address for address in ADDRESSES if address in repr(hops) + repr(Visitor(network=address))]
