"""Tensors in nested dataclasses, mappings and sequences, such as a Batch."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch


def mapped(tree: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """A copy of `tree` with `change` applied to each tensor, in the order of fields and keys."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(
            tree, **{field.name: mapped(getattr(tree, field.name), change) for field in fields(tree)}
        )
    if isinstance(tree, Mapping):
        return {key: mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(mapped(value, change) for value in tree)
    return tree


def tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors of `tree`, in that order."""
    found: list[torch.Tensor] = []
    mapped(tree, found.append)
    return found


def layout(tree: Any) -> str:
    """Equal for two trees that differ in the numbers of their tensors alone."""
    return repr(mapped(tree, lambda tensor: (tuple(tensor.shape), tensor.dtype)))
