"""Who may import what: keys and their ciphers stay in the vault, and the vault knows no application."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import headshots

pytestmark = pytest.mark.slow


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_only_the_envelope_touches_the_cipher() -> None:
    package = Path(headshots.__file__).parent
    importers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any("cobblestone" in name.lower() for name in imports_of(path))
    }

    assert importers == {"vault/envelope.py"}


def importers_of(*libraries: str) -> set[str]:
    """Modules of the whole product that import one of these packages, by path."""
    root = Path(headshots.__file__).parents[1]
    return {
        str(path.relative_to(root))
        for package in ("headshots", "pipelines")
        for path in (root / package).rglob("*.py")
        if {name.split(".")[0] for name in imports_of(path)} & set(libraries)
    }


def test_only_the_vault_touches_cryptographic_primitives() -> None:
    found = importers_of("cryptography", "Crypto", "nacl", "jwcrypto", "tink")

    assert "headshots/vault/envelope.py" in found
    # The verifier is a program of its own that customers download; it runs on their machines alone.
    found.discard("headshots/web/static/web/verify_receipt.py")
    assert {path for path in found if not path.startswith("headshots/vault/")} == set()


def test_only_the_vault_talks_to_amazon() -> None:
    assert importers_of("boto3", "botocore", "aiobotocore") == {
        f"headshots/vault/{name}.py" for name in ("aws", "blobs_s3", "bucket_s3", "epochs_kms")
    }


def test_the_embedded_mode_loads_neither_amazon_nor_redis_for_its_stores() -> None:
    script = (
        "import sys, django; django.setup()\n"
        "from headshots.services import objects\n"
        "objects.epochs().epochs(); list(objects.blobs().list(''))\n"
        "heavy = ('boto3', 'botocore', 'headshots.vault.epochs_redis')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "headshots.settings"}
    root = Path(headshots.__file__).parents[1]

    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=environment, capture_output=True, text=True, check=True
    )

    assert answer.stdout == "[]\n"


KEY_FUNCTIONS = {
    "wrap_order_key",
    "unwrap_order_key",
    "wrap_epoch_key",
    "unwrap_epoch_key",
    "open_order_key",
    "new_order_key",
    "RootRing",
    "OrderKeys",
    "seal_object",
    "open_object",
}


def test_only_one_service_handles_clear_keys() -> None:
    root = Path(headshots.__file__).parents[1]
    users = {
        str(path.relative_to(root))
        for package in ("headshots", "pipelines")
        for path in (root / package).rglob("*.py")
        if {name.rsplit(".", 1)[-1] for name in imports_of(path)} & KEY_FUNCTIONS
    }

    assert {path for path in users if not path.startswith("headshots/vault/")} == {
        "headshots/services/objects.py"
    }


def test_the_vault_imports_neither_django_nor_the_rest_of_the_application() -> None:
    vault = Path(headshots.__file__).parent / "vault"
    imported = set().union(*(imports_of(path) for path in vault.glob("*.py")))

    assert not {name for name in imported if name.split(".")[0] in {"django", "celery", "pipelines"}}
    assert not {
        name
        for name in imported
        if name.startswith("headshots.") and not name.startswith(("headshots.vault", "headshots.faults"))
    }
