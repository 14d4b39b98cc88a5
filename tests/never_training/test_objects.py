"""One service puts what belongs to an order into the store."""

import ast
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from headshots.env import ROOT
from tests.never_training.sources import SOURCES, tree_of

BLOB_WRITES = re.compile(
    r".*(blobs|store|_store|bucket)(\(\))?\.(put|put_object|upload_fileobj|copy|copy_object)"
)
MAY_WRITE = {
    Path("headshots/services/objects.py"): {"o/"},  # sealed objects, below their own order
    Path("headshots/services/tombstones.py"): {"t/"},  # twenty bytes that say an order has ended
}


def blob_writes(tree: ast.AST) -> list[str]:
    """Calls that put something into the blob store, as "line: what is called"."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    texts = [(call.lineno, ast.unparse(call.func)) for call in calls]
    return [f"{line}: {text}" for line, text in texts if BLOB_WRITES.fullmatch(text)]


def test_only_the_objects_service_puts_anything_of_an_order_into_the_store() -> None:
    outside_the_vault = [path for path in SOURCES if ROOT / "headshots/vault" not in path.parents]
    writers = {path.relative_to(ROOT) for path in outside_the_vault if blob_writes(tree_of(path))}

    assert writers == set(MAY_WRITE)


@pytest.mark.parametrize(
    "planted",
    ["objects.blobs().put(n, d)", "blobs().put(n, d)", "store.put(n, d)", "self._bucket.copy(a, b)"],
)
def test_another_writer_would_be_found(planted: str) -> None:
    assert blob_writes(ast.parse(planted))


@pytest.mark.django_db
def test_each_object_lies_below_its_own_order_and_no_store_can_copy(placed: Any) -> None:
    from headshots.models import StoredObject
    from headshots.services import objects
    from headshots.vault.blobs import BlobStore, DiskBlobStore
    from headshots.vault.blobs_s3 import S3BlobStore

    (stored,) = StoredObject.objects.all()
    names = list(objects.blobs().list(""))
    assert names == [f"o/{placed.order.pk.hex}/{stored.pk.hex}"]
    for store in (BlobStore, DiskBlobStore, S3BlobStore):
        methods = {name for name, value in vars(store).items() if isinstance(value, FunctionType)}
        assert not [name for name in methods if re.search("copy|move|rename|link|export", name)]
