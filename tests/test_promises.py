"""The README's table of claims: each word of the promise names tests by file and name, and they all exist."""

import ast

import pytest

from headshots.env import ROOT

WORDS = (
    "encrypted",
    "used only for your headshots",
    "permanently",
    "within 24 hours",
    "never for training",
    "selfies gone within an hour of delivery",
    "you can check",
)


def claims() -> dict[str, list[str]]:
    """The tests that each claim names, by the claim's words."""
    table: dict[str, list[str]] = {}
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| “"):
            table[line.partition("“")[2].partition("”")[0]] = line.rpartition(" | ")[2].split("`")[1::2]
    return table


def functions_of(path: str) -> set[str]:
    """The names of the test functions that stand in a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_word_of_the_promise_has_its_tests() -> None:
    assert tuple(claims()) == WORDS
    assert all(len(names) >= 3 for names in claims().values())


@pytest.mark.parametrize("word", WORDS)
def test_every_test_that_a_claim_names_exists(word: str) -> None:
    for name in claims()[word]:
        path, separator, test = name.partition("::")
        assert separator, name
        assert (ROOT / path).is_file(), path
        assert test in functions_of(path), name


def test_a_name_in_a_comment_or_a_class_is_no_test() -> None:
    assert "test_every_word_of_the_promise_has_its_tests" in functions_of("tests/test_promises.py")
    assert functions_of("tests/environment.py") == set()
