"""The project's own source, as the bans read it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headshots.env import ROOT

PACKAGES = ("headshots", "pipelines")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Code:
    """One file's names: what it imports, and every dotted name it uses, with imported names written out."""

    tree: ast.Module

    def aliases(self) -> dict[str, str]:
        """What each imported name stands for: `from torch import optim as o` makes `o` torch.optim."""
        known: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                known |= {a.asname: a.name for a in node.names if a.asname}
            elif isinstance(node, ast.ImportFrom):
                known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        return known

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, dotted name) of each thing imported, wherever in the file."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    def uses(self) -> Iterator[tuple[int, str]]:
        """(line, dotted name) of each attribute and name used; "?" stands for what is no plain name."""
        aliases = self.aliases()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                yield node.lineno, dotted(node, aliases)

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """(dotted name, call) of every call."""
        aliases = self.aliases()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield dotted(node.func, aliases), node


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, aliases)}.{node.attr}"
    return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def named(code: Code, banned: re.Pattern[str]) -> list[str]:
    """Every banned name that the code imports or uses, as "line: name"."""
    found = {*code.imports(), *code.uses()}
    return [f"{line}: {name}" for line, name in sorted(found) if banned.fullmatch(name)]
