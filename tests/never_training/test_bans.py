"""No file learns, gathers, keeps or trusts; and each ban would find it."""

import ast

import pytest

from headshots.env import ROOT
from tests.never_training.bans import ALLOWED, BANS, CONVERTER
from tests.never_training.sources import SOURCES, Code, tree_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ban", BANS)
def test_no_file_learns_gathers_keeps_or_trusts(ban: str) -> None:
    found = {
        (path.relative_to(ROOT), ban, hit.partition(": ")[2])
        for path in SOURCES
        for hit in BANS[ban](Code(tree_of(path)))
    }

    assert len(SOURCES) > 100
    assert found == {allowed for allowed in ALLOWED if allowed[1] == ban}


PLANTED = {
    "learning": (
        "import torch.optim",
        "from torch import optim",
        "from torch import optim as o\no.Muon(p)",
        "torch.optim.AdamW(p)",
        "loss.backward()",
        "torch.autograd.grad(y, x)",
        "from torch.autograd import grad",
        "with torch.enable_grad(): pass",
        "from transformers import Trainer",
        "from peft import LoraConfig",
        "(a + b).backward()",
    ),
    "gradients": (
        "w.requires_grad_()",
        "w.requires_grad_(True)",
        "w.requires_grad_(flag)",
        "w.requires_grad = True",
        "torch.zeros(3, requires_grad=True)",
    ),
    "training mode": ("unet.train()", "unet.train(True)", "parts.unet.train(mode)"),
    "gathering": (
        "import datasets",
        "from datasets import load_dataset",
        "from torch.utils.data import DataLoader",
        "import torch.utils.data as d\nd.Subset(x, y)",
        "torchvision.datasets.ImageFolder(p)",
        "class Faces(Dataset): pass",
        "import wandb",
    ),
    "keeping": (
        "torch.save(x, p)",
        "from torch import save\nsave(x, p)",
        "import numpy as np\nnp.save(p, x)",
        "numpy.savez(p, x)",
        "from numpy import savez_compressed as keep\nkeep(p, x)",
        "import pickle",
        "from pickle import dumps",
        "x.tofile(p)",
        "unet.save_pretrained(p)",
        "import joblib",
    ),
    "unsafe loading": (
        "torch.load(p)",
        "torch.load(p, weights_only=True)",
        "from torch import load\nload(p)",
    ),
    "trusting strangers": (
        "torch.load(p, weights_only=False)",
        "load(p, trust_remote_code=True)",
        "load(p, trust_remote_code=flag)",
        "archive.extractall(p)",
        "shutil.unpack_archive(p)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
    ),
}


@pytest.mark.parametrize(("ban", "planted"), [(ban, line) for ban in PLANTED for line in PLANTED[ban]])
def test_each_ban_finds_what_is_planted(ban: str, planted: str) -> None:
    assert BANS[ban](Code(ast.parse(planted)))


@pytest.mark.parametrize(
    "harmless",
    [
        "w.requires_grad_(False)",
        "unet.train(False)",
        "'torch.save and pickle'",
        "file.save()",
        "def save(pickle_free): pass",
        "torch.inference_mode()",
    ],
)
def test_no_ban_takes_offence_at_what_is_harmless(harmless: str) -> None:
    assert [ban for ban in BANS if BANS[ban](Code(ast.parse(harmless)))] == []


def test_the_one_pickle_is_opened_by_the_converter_alone_and_as_tensors_alone() -> None:
    tree = tree_of(ROOT / CONVERTER)
    (convert,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "convert")
    in_file = [call for name, call in Code(tree).calls() if name == "torch.load"]
    in_function = [n for n in ast.walk(convert) if n in in_file]

    assert len(in_file) == len(in_function) == 1
    words = {word.arg: word.value for word in in_file[0].keywords}
    assert isinstance(words["weights_only"], ast.Constant)
    assert words["weights_only"].value is True
    assert {name for _, name in Code(tree).uses() if "pickle." in name} == {"pickle.UnpicklingError"}
