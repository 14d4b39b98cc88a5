"""What no file may do: each ban, how it is recognised, and where there is a reason for it."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

from tests.never_training.sources import Code, named

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
