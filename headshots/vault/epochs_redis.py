"""Wrapped epoch keys in a Redis of their own, which drops each by itself when its life ends."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from headshots.vault.errors import StoreAway, UnsafeStore
from headshots.vault.keys import not_after_of

_PREFIX: Final = "headshots:epoch:"
_DESTROYED: Final = b""
_TIMEOUT_SECONDS: Final = 5.0
# How long past its end an epoch is remembered as destroyed: more than any two clocks could disagree.
_REMEMBERED: Final = timedelta(days=7)
# How many epochs a process holds copies for: a day of keys, and a day of destroyed ones.
_HELD: Final = 48
# A copy not seen in Redis for so long is not given back to it: it may have been destroyed meanwhile.
_CONFIRMED_SECONDS: Final = 900.0
# A Redis that started less than this ago makes no keys: the purge, which looks once a minute, first gives
# back those that it lost.
SETTLE_SECONDS: Final = 90


@dataclass(frozen=True, slots=True)
class _Copy:
    value: bytes
    seen_at: float


class RedisShelf:
    """Wrapped epoch keys as `headshots:epoch:<number>`, each with its end as time to live; empty: destroyed.

    Redis keeps nothing on disk, so a restart forgets everything. Each process therefore holds copies, as
    wrapped as they were, of the keys it has seen, and gives those that are still alive back to a Redis that
    restarted. They are used for nothing else: what Redis does not have now does not open.
    """

    def __init__(self, url: str, *, settle_seconds: int = SETTLE_SECONDS) -> None:
        """Raises StoreAway, or UnsafeStore for a Redis that could lose keys early or keep them too long.

        `?persistence=accepted` in the address says that the operator knows of the copies on its disk.
        """
        address, is_accepted = _parse(url)
        self._settle_seconds = settle_seconds
        self._redis = _client(address)
        self._lock = threading.Lock()
        self._copies: dict[int, _Copy] = {}
        with _asking():
            _require_safe(self._redis, is_accepted)
            self._run_id = self._server()["run_id"]

    def find(self, epoch: int) -> bytes | None:
        with _asking():
            value = self._get(epoch)
            if value is None:
                self._give_back_after_restart()
                value = self._get(epoch)
        self._note(epoch, value)
        return value or None

    def keep(self, epoch: int, wrapped: bytes) -> None:
        with _asking():
            if (uptime := self._server()["uptime_in_seconds"]) < self._settle_seconds:
                raise StoreAway(f"Redis restarted {uptime} s ago and may not have all its keys back yet")
            self._set(epoch, wrapped)

    def destroy(self, epochs: Iterable[int]) -> None:
        with _asking():
            for epoch in epochs:
                self._set(epoch, _DESTROYED)
                self._note(epoch, _DESTROYED)

    def epochs(self) -> list[int]:
        with _asking():
            self._give_back_after_restart()
            names = list(self._redis.scan_iter(match=f"{_PREFIX}*", count=1000))
            values: list[Any] = self._redis.mget(names) if names else []
        found = {
            int(name.removeprefix(_PREFIX.encode())): value for name, value in zip(names, values, strict=True)
        }
        for epoch, value in found.items():
            self._note(epoch, value)
        return sorted(epoch for epoch, value in found.items() if value)

    def _get(self, epoch: int) -> bytes | None:
        value: Any = self._redis.get(_name(epoch))  # typed as if the client could also decode it
        return None if value is None else bytes(value)

    def _set(self, epoch: int, value: bytes) -> None:
        # An end in the past, by the clock of Redis, stores nothing: no clock of ours brings a key back.
        if value:
            self._redis.set(_name(epoch), value, nx=True, exat=not_after_of(epoch))
        else:
            self._redis.set(_name(epoch), value, exat=not_after_of(epoch) + _REMEMBERED)

    def _note(self, epoch: int, value: bytes | None) -> None:
        with self._lock:
            known = self._copies.get(epoch)
            if known is not None and known.value == _DESTROYED:
                return  # whatever was read just before it was destroyed
            if value is None:
                self._copies.pop(epoch, None)
                return
            self._copies[epoch] = _Copy(value, time.monotonic())
            for oldest in sorted(self._copies)[:-_HELD]:
                del self._copies[oldest]

    def _give_back_after_restart(self) -> None:
        """Once for each restart, and nobody goes on before it is done."""
        with self._lock:
            run_id = self._server()["run_id"]
            if run_id == self._run_id:
                return
            since = time.monotonic() - _CONFIRMED_SECONDS
            for epoch, copy in self._copies.items():
                if copy.seen_at > since or copy.value == _DESTROYED:
                    self._set(epoch, copy.value)
            self._run_id = run_id

    def _server(self) -> dict[str, Any]:
        return _info(self._redis, "server")


def _name(epoch: int) -> str:
    return f"{_PREFIX}{epoch}"


def _parse(url: str) -> tuple[str, bool]:
    """The address as the client reads it, and whether persistence is accepted."""
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    is_accepted = options.pop("persistence", "") == "accepted"
    return (f"{address}?{urlencode(options)}" if options else address), is_accepted


def _client(address: str) -> Redis:
    try:
        return Redis.from_url(
            address,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(
                NoBackoff(), 1
            ),  # for a connection that a restart cut; more would keep customers waiting
        )
    except ValueError:  # not chained: it may quote a piece of the password
        raise UnsafeStore("EPOCH_STORE is not the address of a Redis, redis://host:port/number") from None


def _require_safe(redis: Redis, is_accepted: bool) -> None:
    policy = _info(redis, "memory")["maxmemory_policy"]
    if policy != "noeviction":
        raise UnsafeStore(f"Redis evicts keys (maxmemory-policy {policy}); epoch keys need noeviction")
    if not is_accepted and _may_persist(redis):
        raise UnsafeStore(
            "Redis writes, or may write, keys to its disk, where destroyed keys stay; turn save and"
            " appendonly off, or add ?persistence=accepted to EPOCH_STORE"
        )


def _may_persist(redis: Redis) -> bool:
    try:
        return bool(redis.config_get("save")["save"]) or redis.config_get("appendonly")["appendonly"] != "no"
    except ResponseError:  # a hosted Redis that does not tell
        return True


def _info(redis: Redis, section: str) -> dict[str, Any]:
    return dict(redis.info(section))


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise StoreAway(f"Redis with the epoch keys: {type(error).__name__}") from error
