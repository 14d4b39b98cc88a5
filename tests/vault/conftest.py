"""What the vault's tests share: fixed ids, a fixed hour, and stores in a temporary folder."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from headshots.vault.blobs import DiskBlobStore
from headshots.vault.keys import FileEpochStore, RootRing


@pytest.fixture
def order_id() -> UUID:
    return UUID("0190a0b0c0d07000800000000000000a")


@pytest.fixture
def now() -> datetime:
    """Forty minutes into epoch 487000."""
    return datetime(2025, 7, 22, 16, 40, tzinfo=UTC)


@pytest.fixture
def epochs(tmp_path: Path) -> FileEpochStore:
    return FileEpochStore(tmp_path / "epochs.sqlite3", RootRing((b"r" * 32,)))


@pytest.fixture
def store(tmp_path: Path) -> DiskBlobStore:
    return DiskBlobStore(tmp_path / "blobs")
