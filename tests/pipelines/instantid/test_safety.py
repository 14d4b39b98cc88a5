"""The safety checker: diffusers' own class on random weights, its bounds moved to where they are wanted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import compat

compat.install()

from diffusers.pipelines.stable_diffusion.safety_checker import (  # noqa: E402
    StableDiffusionSafetyChecker,
    cosine_distance,
)
from transformers import CLIPImageProcessor  # noqa: E402

from pipelines.errors import Final  # noqa: E402
from pipelines.instantid.safety import load_safety  # noqa: E402
from pipelines.instantid.tiny_safety import make_safety  # noqa: E402
from pipelines.types import Pixels  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("made")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        make_safety(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(made: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def change(folder: Path, **tensors: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})


def cosines(folder: Path, picture: Pixels, concepts: str = "concept_embeds") -> torch.Tensor:
    """(17,) or (3,): how near the picture is to each concept, by the published classes alone."""
    checker = StableDiffusionSafetyChecker.from_pretrained(folder)
    pixels = CLIPImageProcessor.from_pretrained(folder)(images=picture, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        embedding = checker.visual_projection(checker.vision_model(pixels)[1])
    return cosine_distance(embedding, getattr(checker, concepts))[0]


def noise(seed: int, shape: tuple[int, ...] = (288, 224, 3)) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_any_picture_is_safe_while_no_concept_is_crossed(folder: Path, selfie: Pixels) -> None:
    is_unsafe = load_safety(folder, "cpu", torch.float32)

    pictures = [selfie, noise(1), np.zeros_like(selfie), noise(2, (60, 900, 3)), noise(3, (1, 1, 3))]
    assert [is_unsafe(picture) for picture in pictures] == [False] * 5


@pytest.mark.parametrize("concept", [0, 16])
def test_a_picture_beyond_the_bound_of_one_concept_is_unsafe(
    concept: int, folder: Path, selfie: Pixels
) -> None:
    cosine = cosines(folder, selfie)[concept]
    bounds = torch.ones(17)

    bounds[concept] = cosine + 0.002
    change(folder, concept_embeds_weights=bounds)
    assert load_safety(folder, "cpu", torch.float32)(selfie) is False

    bounds[concept] = cosine - 0.002
    change(folder, concept_embeds_weights=bounds)
    assert load_safety(folder, "cpu", torch.float32)(selfie) is True


def test_the_verdict_is_on_the_picture_and_not_on_the_one_before(folder: Path, selfie: Pixels) -> None:
    other = noise(1)
    first, second = cosines(folder, selfie), cosines(folder, other)
    concept = int((first - second).argmax())
    bounds = torch.ones(17)
    bounds[concept] = (first[concept] + second[concept]) / 2
    change(folder, concept_embeds_weights=bounds)

    is_unsafe = load_safety(folder, "cpu", torch.float32)

    assert [is_unsafe(picture) for picture in (selfie, other, selfie, other)] == [True, False, True, False]


def test_a_concept_of_special_care_makes_the_others_stricter(folder: Path, selfie: Pixels) -> None:
    bounds = torch.ones(17)
    bounds[3] = cosines(folder, selfie)[3] + 0.005
    care = cosines(folder, selfie, "special_care_embeds")

    change(folder, concept_embeds_weights=bounds, special_care_embeds_weights=care + 0.01)
    assert load_safety(folder, "cpu", torch.float32)(selfie) is False

    change(folder, special_care_embeds_weights=care - 0.01)
    assert load_safety(folder, "cpu", torch.float32)(selfie) is True


def test_the_picture_is_left_as_it_was(folder: Path, selfie: Pixels) -> None:
    change(folder, concept_embeds_weights=torch.full((17,), -1.1))
    before = selfie.copy()

    assert load_safety(folder, "cpu", torch.float32)(selfie) is True
    assert np.array_equal(selfie, before)


def test_the_published_names_of_the_vision_model_are_all_read(folder: Path) -> None:
    published = load_file(folder / "model.safetensors")
    loaded = StableDiffusionSafetyChecker.from_pretrained(folder).state_dict()

    assert "vision_model.vision_model.embeddings.class_embedding" in published
    renamed = {name.replace("vision_model.vision_model.", "vision_model."): name for name in published}
    assert sorted(renamed) == sorted(loaded)
    assert all(torch.equal(loaded[name], published[renamed[name]]) for name in loaded)


def test_half_precision_gives_the_same_verdict(folder: Path, selfie: Pixels) -> None:
    bounds = torch.ones(17)
    bounds[0] = cosines(folder, selfie)[0] - 0.02
    change(folder, concept_embeds_weights=bounds)

    assert load_safety(folder, "cpu", torch.float16)(selfie) is True
    assert load_safety(folder, "cpu", torch.bfloat16)(selfie) is True


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()

    with pytest.raises(Final, match=f"lacks {name}") as caught:
        load_safety(folder, "cpu", torch.float32)

    assert caught.value.code == "weights_missing"


def test_weights_that_lack_a_tensor_are_not_filled_with_random_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(Final, match=r"does not fit its configuration.*visual_projection") as caught:
        load_safety(folder, "cpu", torch.float32)

    assert caught.value.code == "bad_weights"


def test_weights_of_another_size_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"projection_dim": 8}))

    with pytest.raises(Final) as caught:
        load_safety(folder, "cpu", torch.float32)

    assert caught.value.code == "bad_weights"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"no tensors"),
        ("config.json", b"{"),
        ("preprocessor_config.json", b"[]"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_folder(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)

    with pytest.raises(Final) as caught:
        load_safety(folder, "cpu", torch.float32)

    assert caught.value.code == "bad_weights"
    assert str(folder) in str(caught.value)
