"""Second ControlNets: equal to diffusers' MultiControlNet, mixed in batches, checked before they are used."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import compat

compat.install()

import torch  # noqa: E402
from diffusers import ControlNetModel  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from pipelines.errors import Final  # noqa: E402
from pipelines.instantid.adapter import Models  # noqa: E402
from pipelines.instantid.denoise import denoise_step, run  # noqa: E402
from pipelines.instantid.samples import Sample, seeded  # noqa: E402
from pipelines.presets import ExtraControl  # noqa: E402
from tests.pipelines.instantid.models import (  # noqa: E402
    EMBEDDING_WIDTH,
    SIZE,
    difference,
    encoded,
    face,
    fresh_models,
    keypoints,
    sample,
    stock_pipeline,
    tiny_controlnet,
    words,
)
from tests.pipelines.instantid.test_schedulers import reference  # noqa: E402

SEEDS = {"depth": 11, "canny": 12}

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two ControlNets and two pictures of the size of a shot."""
    folder = tmp_path_factory.mktemp("bundle")
    for kind, seed in SEEDS.items():
        tiny_controlnet(seed).save_pretrained(folder / "controls" / kind)
    write_picture(folder, "room", 1)
    write_picture(folder, "street", 2)
    return folder


@pytest.fixture(scope="module")
def models(bundle: Path) -> Models:
    return fresh_models(bundle=bundle)


def drawn_picture(seed: int, width: int = SIZE, height: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(height, width, 3) RGB, coarse and of three different channels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def write_picture(folder: Path, name: str, seed: int, width: int = SIZE, height: int = SIZE) -> None:
    path = folder / "controls" / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), drawn_picture(seed, width, height)[..., ::-1])


def wanted(kind: str = "depth", image: str = "room", scale: float = 0.6, end: float = 1.0) -> ExtraControl:
    return ExtraControl(kind=kind, image=image, conditioning_scale=scale, end=end)


def shot(models: Models, control: ExtraControl | None = None, *, prompt: int = 0, **plan: Any) -> Sample:
    kinds = () if control is None else (control.kind,)
    told = encoded(models, prompt=prompt, control_kinds=kinds)
    given = None if control is None else models.controls.control(control, width=SIZE, height=SIZE)
    return sample(told=told, control=given, **plan)


def latents(models: Models, *args: Any, **plan: Any) -> torch.Tensor:
    return run(models, [shot(models, *args, **plan)])[0].latents


@pytest.mark.parametrize("end", [1.0, 0.5])
def test_latents_equal_those_of_the_stock_pipeline_with_two_controlnets(end: float, models: Models):
    pipe = stock_pipeline(reference("euler", 8), others=(tiny_controlnet(SEEDS["depth"]),))
    faces = torch.stack([torch.zeros(EMBEDDING_WIDTH), face(0)]).reshape(2, 1, 1, -1)
    with torch.inference_mode():
        pipe.controlnet.nets[0].face_tokens = pipe.unet.encoder_hid_proj([faces])[0].squeeze(1)
    pipe.set_ip_adapter_scale(0.8)
    picture = torch.from_numpy(drawn_picture(1)).permute(2, 0, 1).float() / 255
    prompt, negative = words(0), words(99)
    stock = pipe(
        image=[keypoints(0)[None], picture[None]],
        height=SIZE,
        width=SIZE,
        num_inference_steps=8,
        guidance_scale=7.5,
        controlnet_conditioning_scale=[0.8, 0.6],
        control_guidance_start=[0.0, 0.0],
        control_guidance_end=[1.0, end],
        prompt_embeds=prompt[0][None],
        pooled_prompt_embeds=prompt[1][None],
        negative_prompt_embeds=negative[0][None],
        negative_pooled_prompt_embeds=negative[1][None],
        ip_adapter_image_embeds=[faces],
        generator=seeded(5),
        output_type="latent",
    ).images[0]

    got = latents(models, wanted(end=end), steps=8)

    assert difference(got, stock) <= 1e-3
    assert difference(latents(models, steps=8), stock) > 1e-2


PLANS: tuple[tuple[ExtraControl | None, dict[str, Any]], ...] = (
    (None, {"seed": 1}),
    (wanted("depth"), {"seed": 2, "prompt": 1}),
    (wanted("canny", "street", 0.9), {"seed": 3, "prompt": 2, "guidance": ("interval", 9.0)}),
    (wanted("depth", "street", 0.3, end=0.5), {"seed": 4, "controlnet_conditioning_scale": 0.0}),
    (wanted("canny"), {"seed": 5, "mask": torch.linspace(0, 1, 16).expand(16, 16), "scheduler": "ddim"}),
)


def test_a_batch_of_different_controls_and_none_equals_one_by_one(models: Models):
    alone = [latents(models, control, **plan) for control, plan in PLANS]

    together = run(models, [shot(models, control, **plan) for control, plan in PLANS])

    for one, want in zip(together, alone, strict=True):
        assert difference(one.latents, want) <= 1e-4


def test_only_rows_that_ask_are_computed_and_only_until_the_end(models: Models):
    rows: dict[str, list[int]] = {kind: [] for kind in SEEDS}
    hooks = [
        models.controls.net(kind).network.register_forward_pre_hook(
            lambda _, args, kind=kind: rows[kind].append(len(args[0]))
        )
        for kind in SEEDS
    ]

    run(models, [shot(models, control, **plan) for control, plan in PLANS])

    for hook in hooks:
        hook.remove()
    assert rows["depth"] == [4, 4, 2, 2]  # four steps, two rows a shot; one of the two shots ends halfway
    assert rows["canny"] == [4, 4, 4, 3]  # one of the two shots is below its guidance interval at last


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "canny"},
        {"image": "street"},
        {"conditioning_scale": 0.9},
        {"conditioning_scale": 0.0},
        {"end": 0.5},
    ],
    ids=str,
)
def test_each_part_of_a_control_changes_the_picture(change: dict[str, Any], models: Models):
    assert difference(latents(models, replace(wanted(), **change)), latents(models, wanted())) > 1e-4


def test_a_scale_of_zero_equals_no_control(models: Models):
    assert torch.equal(latents(models, wanted(scale=0.0)), latents(models))


def test_the_face_mask_leaves_the_second_controlnet_alone(models: Models):
    empty = torch.zeros(16, 16)

    got = latents(models, wanted(), mask=empty)

    off = {"ip_adapter_scale": 0.0, "controlnet_conditioning_scale": 0.0}
    assert difference(got, latents(models, wanted(), **off)) <= 1e-5
    assert difference(got, latents(models, mask=empty)) > 1e-2


def test_the_text_reaches_the_second_controlnet(models: Models):
    one, other = shot(models, wanted()), shot(models, wanted(), prompt=1)
    prompt = replace(
        one.conditioning.prompt, control_keys_values=other.conditioning.prompt.control_keys_values
    )
    swapped = replace(one, conditioning=replace(one.conditioning, prompt=prompt), generator=seeded(5))

    assert difference(run(models, [swapped])[0].latents, run(models, [one])[0].latents) > 1e-4


def test_networks_and_embedded_pictures_are_made_once(bundle: Path):
    networks = fresh_models(bundle=bundle)
    first = networks.controls.control(wanted(), width=SIZE, height=SIZE)
    calls: list[str] = []
    net = networks.controls.net("depth")
    net.condition_embedding.register_forward_pre_hook(lambda *_: calls.append("embedded"))

    second = networks.controls.control(wanted(scale=0.2, end=0.4), width=SIZE, height=SIZE)
    networks.controls.control(wanted(image="street"), width=SIZE, height=SIZE)

    assert second.condition is first.condition
    assert (second.conditioning_scale, second.end) == (0.2, 0.4)
    assert networks.controls.net("depth") is net
    assert calls == ["embedded"]


def test_a_picture_of_another_size_is_resized_to_the_shot(bundle: Path, models: Models):
    write_picture(bundle, "large", 1, width=2 * SIZE, height=2 * SIZE)

    large = models.controls.control(wanted(image="large"), width=SIZE, height=SIZE)
    fitting = models.controls.control(wanted(), width=SIZE, height=SIZE)

    assert large.condition.shape == fitting.condition.shape == (32, SIZE // 8, SIZE // 8)
    assert difference(large.condition, fitting.condition) < 0.1


def test_a_prompt_not_encoded_for_the_control_is_misuse(models: Models):
    one = replace(shot(models), control=shot(models, wanted()).control)

    with pytest.raises(RuntimeError, match="shot-5: its prompt was not encoded for depth"):
        denoise_step(models, [one])


@pytest.mark.parametrize(
    ("control", "missing"),
    [
        (wanted("pose"), "controls/pose is not there"),
        (wanted(image="sea"), "controls/images/sea.png is not there"),
    ],
    ids=["network", "picture"],
)
def test_what_is_missing_is_a_final_error_that_says_where_it_should_be(
    control: ExtraControl, missing: str, bundle: Path, models: Models
):
    with pytest.raises(Final, match=f"{bundle}/{missing}. Mend: put a") as error:
        models.controls.control(control, width=SIZE, height=SIZE)
    assert error.value.code == "control_missing"


def test_without_a_bundle_there_is_no_second_controlnet():
    with pytest.raises(Final, match="no bundle was given") as error:
        fresh_models().controls.net("depth")
    assert error.value.code == "control_missing"


def another_width(folder: Path) -> None:
    shape = dict(ControlNetModel.load_config(folder), cross_attention_dim=32)
    ControlNetModel.from_config(shape).save_pretrained(folder)


def one_tensor_less(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    save_file(tensors, path, metadata={"format": "pt"})


def another_depth(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layers_per_block": 3}))


def no_tensors(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"")


def no_file(folder: Path) -> None:
    (folder / "diffusion_pytorch_model.safetensors").unlink()


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (another_width, "is made for another UNet: cross_attention_dim is 32, not 64"),
        (one_tensor_less, r"does not fit its config.json: \['conv_in.bias'\]"),
        (another_depth, "cannot be loaded"),
        (no_tensors, "cannot be loaded"),
        (no_file, "cannot be loaded"),
        (no_json, "cannot be loaded"),
    ],
)
def test_a_network_that_does_not_fit_is_a_final_error_with_what_to_do(
    damage: Callable[[Path], None], problem: str, tmp_path: Path
):
    folder = tmp_path / "controls" / "depth"
    tiny_controlnet().save_pretrained(folder)
    damage(folder)

    with pytest.raises(Final, match=rf"(?s){folder} {problem}.*Mend: put a diffusers ControlNet") as error:
        fresh_models(bundle=tmp_path).controls.net("depth")
    assert error.value.code == "bad_control"


@pytest.mark.parametrize("content", [b"", b"GIF89a, or not"])
def test_a_picture_that_cannot_be_read_is_a_final_error(content: bytes, tmp_path: Path):
    tiny_controlnet().save_pretrained(tmp_path / "controls" / "depth")
    (tmp_path / "controls" / "images").mkdir()
    (tmp_path / "controls" / "images" / "room.png").write_bytes(content)

    with pytest.raises(Final, match=r"images/room\.png is no picture. Mend: put a 128 x 128 PNG") as error:
        fresh_models(bundle=tmp_path).controls.control(wanted(), width=SIZE, height=SIZE)
    assert error.value.code == "bad_control"
