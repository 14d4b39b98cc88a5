"""“Never for training”, read off the code itself: nothing here learns, keeps or carries away.

The bans are read from the syntax tree of every file of `headshots` and `pipelines`, so a docstring may speak
of them. Each ban has planted lines that it must find, or it would hold nothing.
"""

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from headshots.env import ROOT
from pipelines.types import Pixels

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


# --- what no file may do ----------------------------------------------------------------------------------

LEARNING = re.compile(
    r"(torch\.)?optim(\..*)?|.*\boptim\.\w+|torch\.autograd(\..*)?|torch\.(enable_grad|set_grad_enabled)"
    r"|.*\.(backward|autograd|zero_grad|retain_grad|register_hook)|(.*\.)?GradScaler"
    r"|(.*\.)?(Adam|AdamW|SGD|Adagrad|RMSprop|LBFGS|Optimizer|Trainer|TrainingArguments|LoraConfig|get_peft_model)"
)
GATHERING = re.compile(
    r"datasets(\..*)?|torch\.utils\.data(\..*)?|(.*\.)?(DataLoader|Dataset|IterableDataset|load_dataset|ImageFolder)"
    r"|torchvision\.datasets(\..*)?|(wandb|tensorboard|mlflow)(\..*)?|(.*\.)?SummaryWriter"
)
KEEPING = re.compile(
    r"torch\.(save|jit\.save|export\.save)|(numpy|np)\.(save|savez|savez_compressed|savetxt|memmap)"
    r"|(pickle|cPickle|dill|cloudpickle|shelve|joblib|marshal)(\.(dump|dumps|Pickler|open|load|loads|Unpickler))?"
    r"|.*\.(tofile|save_pretrained|push_to_hub|dump_data)"
    r"|(.*\.)?(upload_file|upload_folder|HfApi)"
)


def named(code: Code, banned: re.Pattern[str]) -> list[str]:
    """Every banned name that the code imports or uses, as "line: name"."""
    found = {*code.imports(), *code.uses()}
    return [f"{line}: {name}" for line, name in sorted(found) if banned.fullmatch(name)]


def sets_gradients(code: Code) -> list[str]:
    """Calls of requires_grad_ other than with a literal False, and requires_grad set or asked for as True."""
    found = []
    for name, call in code.calls():
        arguments = [*call.args, *(word.value for word in call.keywords)]
        is_off = (
            len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value is False
        )
        if name.endswith(".requires_grad_") and not is_off:
            found.append(f"{call.lineno}: {name}")
        found += [f"{call.lineno}: {word.arg}" for word in call.keywords if _asks_for_gradients(word)]
    for node in ast.walk(code.tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Attribute) and target.attr == "requires_grad" for target in targets):
            found.append(f"{node.lineno}: requires_grad")
    return found


def _asks_for_gradients(word: ast.keyword) -> bool:
    is_off = isinstance(word.value, ast.Constant) and word.value.value is False
    return word.arg in ("requires_grad", "is_trainable") and not is_off


def trains(code: Code) -> list[str]:
    """`.train()` of a network; `.train(False)` is evaluation."""
    return [
        f"{call.lineno}: {name}"
        for name, call in code.calls()
        if name.endswith(".train")
        and not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value is False)
    ]


Ban = Callable[[Code], list[str]]
# The pickles of published weights are opened in one place, once, by hand: `weights convert`.
CONVERTER = Path("pipelines/weights.py")


def loads_unsafely(code: Code) -> list[str]:
    """torch.load, anywhere: the converter's own is compared with the one that is allowed."""
    return [f"{call.lineno}: {name}" for name, call in code.calls() if name == "torch.load"]


def trusts_strangers(code: Code) -> list[str]:
    """Code or archives of strangers: trust_remote_code, extractall, eval, exec, yaml.load and the like."""
    names = re.compile(
        r"eval|exec|compile|__import__|.*\.(extractall|unpack_archive)|unpack_archive|yaml\.(load|unsafe_load)"
        r"|torch\.hub\.load|.*\.load_state_dict_from_url|os\.(system|popen)"
    )
    found = [f"{call.lineno}: {name}" for name, call in code.calls() if names.fullmatch(name)]
    found += [
        f"{call.lineno}: {word.arg}"
        for _, call in code.calls()
        for word in call.keywords
        if word.arg in ("trust_remote_code", "weights_only", "shell")
        and not (isinstance(word.value, ast.Constant) and word.value.value is _SAFE[word.arg])
    ]
    return found


_SAFE = {"trust_remote_code": False, "weights_only": True, "shell": False}

BANS: dict[str, Ban] = {
    "learning": lambda code: named(code, LEARNING),
    "gradients": sets_gradients,
    "training mode": trains,
    "gathering": lambda code: named(code, GATHERING),
    "keeping": lambda code: named(code, KEEPING),
    "unsafe loading": loads_unsafely,
    "trusting strangers": trusts_strangers,
}
# What stands for a reason: (file, ban, what is found there), and nothing beside it.
ALLOWED = {
    (CONVERTER, "keeping", "pickle"),
    (CONVERTER, "unsafe loading", "torch.load"),
    # `weights tiny` writes networks of random numbers, before there is any order.
    (Path("pipelines/instantid/tiny.py"), "keeping", "config.save_pretrained"),
    (Path("pipelines/instantid/tiny.py"), "keeping", "unet.save_pretrained"),
    (Path("pipelines/instantid/tiny.py"), "keeping", "net.save_pretrained"),
    (Path("pipelines/instantid/tiny.py"), "keeping", "vae.save_pretrained"),
    (Path("pipelines/instantid/tiny_safety.py"), "keeping", "config.save_pretrained"),
}


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


# --- what is derived from a face ----------------------------------------------------------------------------

# Names that hold a description of a face. The pipeline may compute with them; nothing may write them out.
FACE_DATA = re.compile(r"(.*_)?(embeddings?|identity|identities|latents?|keypoints?)(_.*)?")
WRITES_OUT = (
    "tofile",
    "tobytes",
    "tolist",
    "dump",
    "dumps",
    "hex",
    "write",
    "writelines",
    "write_bytes",
    "item",
)
WRITERS = re.compile(
    r"(json|pickle|marshal|base64|struct|binascii|csv)\.\w+|(.*\.)?save_file|open|print|(.*\.)?(log|_log)\.\w+"
)


def writes_out_faces(code: Code) -> list[str]:
    """Calls that turn a name of FACE_DATA into bytes, text, a list or a file: as receiver or as argument.

    Precisely: `<face>.tobytes()` and the like, wherever in the chain (`a.embedding.cpu().tolist()`),
    and `<writer>(..., <face>, ...)`, anywhere in the arguments, for encoders, files, prints and logs.
    """
    found = []
    for name, call in code.calls():
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        if receiver is not None and name.rpartition(".")[2] in WRITES_OUT and _speaks_of_faces(receiver):
            found.append(f"{call.lineno}: {name}")
        given = [*call.args, *(word.value for word in call.keywords)]
        is_writer = WRITERS.fullmatch(name) or name.rpartition(".")[2] in (
            "write",
            "writelines",
            "write_bytes",
        )
        if is_writer and any(_speaks_of_faces(value) for value in given):
            found.append(f"{call.lineno}: {name}")
    return found


def _speaks_of_faces(expression: ast.expr) -> bool:
    for node in ast.walk(expression):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if FACE_DATA.fullmatch(name):
            return True
    return False


def test_no_description_of_a_face_becomes_bytes_text_or_a_file() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{hit}" for path in SOURCES for hit in writes_out_faces(Code(tree_of(path)))
    }

    assert found == set()


@pytest.mark.parametrize(
    "planted",
    [
        "face.embedding.tobytes()",
        "mean_embedding(faces).tolist()",
        "embedding.cpu().numpy().tofile(path)",
        "json.dumps({'e': list(face.embedding)})",
        "base64.b64encode(embedding)",
        "print(person.identity)",
        "log.info('%s', keypoints)",
        "save_file({'x': identity_tokens}, path)",
        "path.write_bytes(bytes(latents))",
    ],
)
def test_a_description_that_is_written_out_would_be_found(planted: str) -> None:
    assert writes_out_faces(Code(ast.parse(planted)))


def test_no_row_has_a_place_for_a_description_of_a_face() -> None:
    from django.apps import apps

    columns = {
        f"{model.__name__}.{field.name}"
        for model in apps.get_app_config("headshots").get_models()
        for field in model._meta.concrete_fields
        if not field.choices  # a choice between names, such as a style's way with the negative identity
    }

    assert len(columns) > 100
    assert {name for name in columns if FACE_DATA.fullmatch(name.partition(".")[2])} == set()


# --- where objects go ---------------------------------------------------------------------------------------

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


# --- what the engine does while it runs ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real engine over the tiny bundle; its shots come aboard with their last step to do."""
    pytest.importorskip("torch")
    from pipelines import compat

    compat.install()
    from pipelines.instantid import engine as loop
    from pipelines.instantid.loading import load_parts
    from pipelines.instantid.shots import begin
    from pipelines.instantid.tiny import make_tiny_bundle

    def late(*args: Any) -> Any:
        begun = begin(*args)
        return replace(begun, sample=replace(begun.sample, position=len(begun.sample.schedule) - 1))

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_bundle(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "begin", late)
        yield loop.InstantIdEngine(load_parts(folder, "cpu"), slots=1)
    shutil.rmtree(folder)


def networks_of(parts: Any) -> dict[str, Any]:
    """Every network among the engine's parts, by its class's name and place."""
    from torch.nn import Module

    found: dict[str, Any] = {}
    ahead = [("parts", parts)]
    seen = set()
    while ahead:
        name, part = ahead.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Module):
            found[name] = part
        elif isinstance(part, tuple | list):
            ahead += [(f"{name}[{place}]", each) for place, each in enumerate(part)]
        elif type(part).__module__.startswith("pipelines."):
            held = getattr(part, "__dict__", {}) | {
                slot: getattr(part, slot, None) for slot in getattr(part, "__slots__", ())
            }
            ahead += [(f"{name}.{attribute}", each) for attribute, each in held.items()]
        elif callable(part) and getattr(part, "__closure__", None):
            ahead += [(f"{name}()", cell.cell_contents) for cell in part.__closure__]
    return found


def test_no_network_of_the_engine_can_learn(engine: Any) -> None:
    networks = networks_of(engine.parts)

    models, parts = engine.parts.models, engine.parts
    known = [models.unet, models.identitynet, models.resampler, parts.vae, *parts.text.encoders]
    assert {id(network) for network in known} < {id(network) for network in networks.values()}
    assert len(networks) >= 8
    for name, network in networks.items():
        assert not network.training, name
        assert not [key for key, weight in network.named_parameters() if weight.requires_grad], name


def test_every_forward_of_a_whole_picture_is_inference(engine: Any, selfie: bytes) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    from pipelines.images import clean_portrait, decode_jpeg
    from pipelines.styles import BUILTIN
    from pipelines.types import FinishedShot, OutputSpec, ShotRequest

    portrait: Pixels = decode_jpeg(clean_portrait(selfie))
    request = ShotRequest(
        shot_id="one",
        identity="one",
        portrait=portrait,
        preset=replace(BUILTIN[0].preset, num_inference_steps=20),
        seeds=(7,),
        output=OutputSpec(long_edge=3840, is_watermarked=False),
    )
    batches = iter([[request]])
    results: list[Any] = []
    forwards: dict[str, set[tuple[bool, bool, bool]]] = {}

    def look(module: Any, given: Any, made: Any) -> None:
        tensors = [made] if isinstance(made, torch.Tensor) else []
        for tensor in tensors:
            seen = (torch.is_inference_mode_enabled(), tensor.is_inference(), tensor.requires_grad)
            forwards.setdefault(type(module).__name__, set()).add(seen)

    hook = register_module_forward_hook(look)
    before = {name: weights_of(network) for name, network in networks_of(engine.parts).items()}
    try:
        engine.run(lambda free: next(batches, []), results.append, lambda shot_id: False)
    finally:
        hook.remove()

    (result,) = results
    assert isinstance(result, FinishedShot)
    assert len(forwards) > 10
    assert set().union(*forwards.values()) == {(True, True, False)}, forwards
    after = {name: weights_of(network) for name, network in networks_of(engine.parts).items()}
    assert after == before


def weights_of(network: Any) -> list[tuple[str, float, bool]]:
    """Each parameter's name, its sum in double precision, and whether it collected a gradient."""
    return [
        (name, weight.double().sum().item(), weight.grad is None)
        for name, weight in network.named_parameters()
    ]


def test_a_forward_outside_of_inference_would_be_seen(engine: Any) -> None:
    import torch

    resampler = engine.parts.models.resampler
    width = next(resampler.parameters()).dtype
    made = resampler(torch.zeros(1, 1, 512, dtype=width))

    assert not made.is_inference()
