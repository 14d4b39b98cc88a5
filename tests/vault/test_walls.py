"""Who may import what: the cipher stays in one module, and the vault knows nothing of the application."""

import ast
from pathlib import Path

import headshots


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


def test_the_vault_imports_neither_django_nor_the_rest_of_the_application() -> None:
    vault = Path(headshots.__file__).parent / "vault"
    imported = set().union(*(imports_of(path) for path in vault.glob("*.py")))

    assert not {name for name in imported if name.split(".")[0] in {"django", "celery", "pipelines"}}
    assert not {
        name for name in imported if name.startswith("headshots.") and not name.startswith("headshots.vault")
    }
