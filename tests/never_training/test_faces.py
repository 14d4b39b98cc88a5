"""Nothing that is derived from a face is written out or has a place in a row."""

import ast
import re

import pytest

from headshots.env import ROOT
from tests.never_training.sources import SOURCES, Code, tree_of

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
