"""The tiny bundle and the engine over it, made once for each process that runs tests of this folder."""

from pathlib import Path

import pytest
import torch

from pipelines import compat

compat.install()

from pipelines.instantid.engine import InstantIdEngine  # noqa: E402
from pipelines.instantid.loading import Parts, load_parts  # noqa: E402
from pipelines.instantid.tiny import make_tiny_bundle  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two processes of tests on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-weights")
    make_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def parts(tiny_folder: Path) -> Parts:
    return load_parts(tiny_folder, "cpu")


@pytest.fixture
def engine(parts: Parts) -> InstantIdEngine:
    return InstantIdEngine(parts, slots=4)
