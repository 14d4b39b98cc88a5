"""Epoch keys in Redis alone: they end by themselves, survive a restart while a holder lives, no longer."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis

from headshots.vault import epochs_redis
from headshots.vault.envelope import Role
from headshots.vault.epochs_redis import RedisShelf
from headshots.vault.epochs_ring import RingEpochs
from headshots.vault.errors import KeyGone, StoreAway, UnsafeStore
from headshots.vault.keys import OrderKeyName, epoch_of, not_after_of
from tests.vault.conftest import RING
from tests.vault.servers import RedisServer, closed_port

KEY = bytes(range(1, 33))
DAY_SECONDS = 24 * 3600


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def name(now: datetime) -> OrderKeyName:
    epoch = epoch_of(now)
    return OrderKeyName(order_id=UUID(int=5), role=Role.SELFIES, epoch=epoch, not_after=not_after_of(epoch))


def open_store(url: str) -> RingEpochs:
    return RingEpochs(RedisShelf(url, settle_seconds=0), RING)


def redis_name(name: OrderKeyName) -> str:
    return f"headshots:epoch:{name.epoch}"


def test_key_lies_wrapped_and_ends_by_itself_at_the_end_of_its_epoch(
    redis_url: str, name: OrderKeyName, now: datetime
) -> None:
    open_store(redis_url).wrap(KEY, name, now)

    with Redis.from_url(redis_url) as redis:
        assert redis.keys() == [redis_name(name).encode()]
        assert redis.expiretime(redis_name(name)) == name.not_after.timestamp()
        key = RING.unwrap(bytes(redis.get(redis_name(name)) or b""), name.epoch)
    assert len(key) == 32


def test_expired_key_is_gone_without_anybody_asking(
    redis_url: str, name: OrderKeyName, now: datetime
) -> None:
    store = open_store(redis_url)
    wrapped = store.wrap(KEY, name, now)
    with Redis.from_url(redis_url) as redis:
        redis.pexpire(redis_name(name), 0)

    with pytest.raises(KeyGone):
        store.unwrap(wrapped, name)
    assert store.epochs() == []


def test_destroyed_epoch_leaves_an_empty_value_for_a_week_after_its_end(
    redis_url: str, name: OrderKeyName, now: datetime
) -> None:
    store = open_store(redis_url)
    store.wrap(KEY, name, now)

    store.destroy(name.epoch)

    with Redis.from_url(redis_url) as redis:
        assert redis.get(redis_name(name)) == b""
        assert redis.expiretime(redis_name(name)) == name.not_after.timestamp() + 7 * DAY_SECONDS


# restarts


def test_restarted_redis_gets_its_keys_back_from_a_live_process(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    holder, other = (open_store(restartable_redis.url) for _ in range(2))
    wrapped = holder.wrap(KEY, name, now)

    restartable_redis.restart()

    assert holder.epochs() == [name.epoch]  # what the purge asks at every pass
    assert other.unwrap(wrapped, name) == holder.unwrap(wrapped, name) == KEY
    with Redis.from_url(restartable_redis.url) as redis:
        assert redis.expiretime(redis_name(name)) == name.not_after.timestamp()


def test_restarted_redis_gets_its_keys_back_also_from_somebody_who_opens_one(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    holder = open_store(restartable_redis.url)
    wrapped = holder.wrap(KEY, name, now)

    for _ in range(2):
        restartable_redis.restart()
        assert holder.unwrap(wrapped, name) == KEY


def test_process_that_wraps_first_after_a_restart_keeps_the_key_it_knew(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    holder = open_store(restartable_redis.url)
    wrapped = holder.wrap(KEY, name, now)

    restartable_redis.restart()

    assert holder.wrap(KEY, name, now)[8:16] == wrapped[8:16]


def test_restart_that_nobody_survives_is_the_end_of_the_keys(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    wrapped = open_store(restartable_redis.url).wrap(KEY, name, now)

    restartable_redis.restart()

    with pytest.raises(KeyGone):
        open_store(restartable_redis.url).unwrap(wrapped, name)


def test_destroyed_key_does_not_come_back_after_a_restart(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    holder, destroyer = (open_store(restartable_redis.url) for _ in range(2))
    wrapped = holder.wrap(KEY, name, now)
    destroyer.destroy(name.epoch)

    restartable_redis.restart()

    assert destroyer.epochs() == []  # it says again that the epoch is destroyed, and whoever asks believes it
    with pytest.raises(KeyGone):
        holder.unwrap(wrapped, name)
    with pytest.raises(KeyGone):
        holder.wrap(KEY, name, now)


def test_copy_that_was_not_confirmed_for_a_quarter_of_an_hour_is_not_given_back(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 1000.0
    monkeypatch.setattr(epochs_redis.time, "monotonic", lambda: seconds)
    holder = open_store(restartable_redis.url)
    wrapped = holder.wrap(KEY, name, now)
    seconds += 899
    restartable_redis.restart()
    assert holder.unwrap(wrapped, name) == KEY

    seconds += 900
    restartable_redis.restart()

    with pytest.raises(KeyGone):
        holder.unwrap(wrapped, name)


def test_key_that_vanished_without_a_restart_is_not_given_back(
    redis_url: str, name: OrderKeyName, now: datetime
) -> None:
    store = open_store(redis_url)
    wrapped = store.wrap(KEY, name, now)
    with Redis.from_url(redis_url) as redis:
        redis.delete(redis_name(name))

    for _ in range(2):
        with pytest.raises(KeyGone):
            store.unwrap(wrapped, name)


def test_redis_that_just_started_makes_no_key_before_the_old_ones_can_be_back(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    store = RingEpochs(RedisShelf(restartable_redis.url), RING)

    with pytest.raises(StoreAway, match=r"restarted \d s ago"):
        store.wrap(KEY, name, now)

    assert store.epochs() == []


def test_redis_that_is_down_is_away_and_serves_again_when_it_is_back(
    restartable_redis: RedisServer, name: OrderKeyName, now: datetime
) -> None:
    store = open_store(restartable_redis.url)
    wrapped = store.wrap(KEY, name, now)

    restartable_redis.stop()
    for operation in (
        lambda: store.wrap(KEY, name, now),
        lambda: store.unwrap(wrapped, name),
        lambda: store.destroy(name.epoch),
        lambda: store.destroy_due(name.not_after),
        store.epochs,
        lambda: open_store(restartable_redis.url),
    ):
        with pytest.raises(StoreAway):
            operation()
    restartable_redis.start()

    assert store.unwrap(wrapped, name) == KEY


# which Redis is refused


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("maxmemory-policy", "allkeys-lru", "evicts keys (maxmemory-policy allkeys-lru)"),
        ("maxmemory-policy", "volatile-ttl", "evicts keys (maxmemory-policy volatile-ttl)"),
        ("save", "3600 1", "writes, or may write, keys to its disk"),
        ("appendonly", "yes", "writes, or may write, keys to its disk"),
    ],
)
def test_redis_that_could_lose_keys_or_keep_them_is_refused(
    restartable_redis: RedisServer, name: str, value: str, complaint: str
) -> None:
    with Redis.from_url(restartable_redis.url) as redis:
        redis.config_set(name, value)

    with pytest.raises(UnsafeStore) as caught:
        RedisShelf(restartable_redis.url)
    assert complaint in str(caught.value)

    if name == "maxmemory-policy":
        with pytest.raises(UnsafeStore):
            RedisShelf(f"{restartable_redis.url}?persistence=accepted")
    else:
        RedisShelf(f"{restartable_redis.url}?persistence=accepted")


def test_redis_that_does_not_tell_whether_it_writes_to_disk_is_not_trusted(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--rename-command", "CONFIG", "")
    try:
        with pytest.raises(UnsafeStore, match="may write"):
            RedisShelf(server.url)
        RedisShelf(f"{server.url}?persistence=accepted")
    finally:
        server.stop()


def test_errors_do_not_repeat_the_address_with_its_password() -> None:
    with pytest.raises(StoreAway) as caught:
        RedisShelf(f"redis://user:geheim@127.0.0.1:{closed_port()}/0")

    assert "geheim" not in str(caught.value)
    assert "ConnectionError" in str(caught.value)


@pytest.mark.parametrize(
    "address", ["redis://user:geheim/@host", "redis://:geheim:7@host:x", "gopher://geheim"]
)
def test_malformed_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(UnsafeStore, match="not the address of a Redis") as caught:
        RedisShelf(address)

    assert "geheim" not in str(caught.value)
    assert caught.value.__cause__ is None
