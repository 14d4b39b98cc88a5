"""Mends for the heavy packages, in one place: call `install()` before importing any of them.

Two things are broken, and nothing else in the project knows of either:

- basicsr 1.4.2 imports `rgb_to_grayscale` from `torchvision.transforms.functional_tensor`, a module that
  torchvision removed in 0.17. The function still exists under `torchvision.transforms.functional`, so a
  module of the old name is provided with that one function. basicsr itself stays unpatched.
- A torchvision built for CUDA cannot load its C++ library beside a torch built for the CPU, and then fails
  on import because it annotates operators that nobody defined. With the two schemas defined it imports.
  This is enough: the operators (non-maximum suppression of boxes) are never called here, and calling one
  still fails with a clear error instead of giving a wrong answer.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

OLD_MODULE = "torchvision.transforms.functional_tensor"
OPERATORS = ("nms", "qnms")

_libraries: list[Any] = []  # torch forgets the definitions when the object that made them is collected


def install() -> None:
    """Make torchvision, diffusers, basicsr and realesrgan importable. Safe to call any number of times."""
    _import_torchvision()
    if OLD_MODULE in sys.modules or importlib.util.find_spec(OLD_MODULE) is not None:
        return
    functional = importlib.import_module("torchvision.transforms.functional")
    module: Any = types.ModuleType(OLD_MODULE)
    module.rgb_to_grayscale = functional.rgb_to_grayscale
    sys.modules[OLD_MODULE] = module


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "does not exist" not in str(error):  # only: "operator torchvision::nms does not exist"
            raise
        _define_operators()
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # left half-imported by the failure
        importlib.import_module("torchvision")


def _define_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
