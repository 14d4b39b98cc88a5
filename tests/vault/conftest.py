"""What the vault's tests share: fixed ids, an hour, servers on loopback, and stores of every kind."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from moto.server import ThreadedMotoServer
from redis import Redis

from headshots.vault.blobs import DiskBlobStore
from headshots.vault.epochs_file import FileShelf
from headshots.vault.epochs_kms import KmsEpochs
from headshots.vault.epochs_redis import RedisShelf
from headshots.vault.epochs_ring import MemoryShelf, RingEpochs
from headshots.vault.keys import EpochStore, RootRing
from tests.vault import moto_gaps
from tests.vault.servers import Proxy, RedisServer, aws_client, shared_redis_url

RING = RootRing((b"r" * 32,))


@pytest.fixture
def order_id() -> UUID:
    return UUID("0190a0b0c0d07000800000000000000a")


@pytest.fixture
def now() -> datetime:
    """Forty minutes into epoch 487000."""
    return datetime(2025, 7, 22, 16, 40, tzinfo=UTC)


@pytest.fixture
def epochs(tmp_path: Path) -> RingEpochs:
    return RingEpochs(FileShelf(tmp_path / "epochs.sqlite3"), RING)


@pytest.fixture
def store(tmp_path: Path) -> DiskBlobStore:
    return DiskBlobStore(tmp_path / "blobs")


# servers


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty Redis: the one infra/dev started, or one of our own."""
    if url := shared_redis_url():
        yield url
        return
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    with Redis.from_url(redis_server) as client:
        client.flushdb()
        yield redis_server
        client.flushdb()


@pytest.fixture
def restartable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto's server, whose KMS knows imported keys."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    patch = pytest.MonkeyPatch()
    moto_gaps.install(patch)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    patch.undo()


@pytest.fixture(scope="session")
def s3(moto: str) -> Any:
    return aws_client("s3", moto)


@pytest.fixture
def proxy(moto: str) -> Iterator[Proxy]:
    """Stands between a client and moto's server, and can be told to misbehave."""
    with Proxy(moto) as standing:
        yield standing


@pytest.fixture
def kms(moto: str) -> Iterator[Any]:
    """A client of an empty KMS, whose clock is right."""
    from moto.kms.models import kms_backends

    kms_backends.reset()
    moto_gaps.Clock.ahead = timedelta(0)
    yield aws_client("kms", moto)
    moto_gaps.Clock.ahead = timedelta(0)


# epoch stores


@dataclass(frozen=True, slots=True)
class Opened:
    """A store, and how another process opens the same."""

    store: EpochStore
    again: Callable[[], EpochStore]


def _opened(again: Callable[[], EpochStore]) -> Opened:
    return Opened(again(), again)


@pytest.fixture
def file_epochs(tmp_path: Path) -> Opened:
    return _opened(lambda: RingEpochs(FileShelf(tmp_path / "epochs.sqlite3"), RING))


@pytest.fixture
def memory_epochs() -> Opened:
    shelf = MemoryShelf()
    return _opened(lambda: RingEpochs(shelf, RING))


@pytest.fixture
def redis_epochs(redis_url: str) -> Opened:
    return _opened(lambda: RingEpochs(RedisShelf(redis_url, settle_seconds=0), RING))


@pytest.fixture
def kms_epochs(kms: Any) -> Opened:
    return _opened(lambda: KmsEpochs(kms))
