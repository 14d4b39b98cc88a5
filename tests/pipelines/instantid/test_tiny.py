"""The tiny bundle: the production layout in a few megabytes, loaded by the libraries of the real one."""

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from django.core.management import call_command
from insightface.app import FaceAnalysis
from insightface.model_zoo import get_model
from safetensors.torch import load_file

from pipelines import compat
from pipelines.errors import Final
from pipelines.gate import Thresholds, problems
from pipelines.instantid.tiny import make_tiny_bundle
from pipelines.instantid.tiny_faces import FACE_POINTS
from pipelines.types import Pixels
from pipelines.weights import MANIFEST, Bundle, Verdict, is_random, read_lock, resolve, verify

pytestmark = [pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning"), pytest.mark.slow]

POINTS = 2 * np.asarray(FACE_POINTS)  # the sample selfie is the portrait enlarged twice
EYES = 86.0  # pixels between the eyes of the sample selfie
SIZES = [(640, 640), (320, 320), (160, 160)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_bundle(folder)
    return resolve(folder, check_hashes=True)


@pytest.fixture(scope="module")
def analysis(bundle: Bundle) -> FaceAnalysis:
    analysis = FaceAnalysis(name=str(bundle.faces), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=SIZES)
    return analysis


def found(analysis: FaceAnalysis, portrait: Pixels) -> list[Any]:
    return list(analysis.get(np.ascontiguousarray(portrait[..., ::-1])))


def warped(portrait: Pixels, matrix: Any) -> Pixels:
    size = portrait.shape[1], portrait.shape[0]
    flags = cv2.INTER_AREA
    moved = cv2.warpAffine(portrait, np.float32(matrix), size, flags=flags, borderValue=(127, 127, 127))
    return np.asarray(moved, np.uint8)


def cosine(first: Any, second: Any) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


# The bundle


def test_the_heavy_packages_import_after_the_mends() -> None:
    compat.install()
    compat.install()

    import diffusers
    import realesrgan
    from basicsr.archs.rrdbnet_arch import RRDBNet
    from torchvision.transforms.functional import rgb_to_grayscale

    assert sys.modules["torchvision.transforms.functional_tensor"].rgb_to_grayscale is rgb_to_grayscale
    assert all((diffusers.UNet2DConditionModel, realesrgan.RealESRGANer, RRDBNet))


def test_two_bundles_are_equal_byte_by_byte_and_small(bundle: Bundle, tmp_path: Path) -> None:
    torch.manual_seed(99)
    make_tiny_bundle(tmp_path)

    def hashes(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }

    assert hashes(tmp_path) == hashes(bundle.folder)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 15_000_000


def test_making_a_bundle_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)

    torch.manual_seed(3)
    make_tiny_bundle(tmp_path)

    assert torch.equal(torch.rand(1), expected)


def test_its_files_are_exactly_those_of_the_manifest(bundle: Bundle) -> None:
    there = {str(path.relative_to(bundle.folder)) for path in bundle.folder.rglob("*") if path.is_file()}

    assert there == {file.path for file in MANIFEST} | {"calibration.json", "weights.lock.json"}
    assert verify(bundle.folder)[0] == Verdict(
        path="base/model_index.json", key="sdxl-base", state="ok", detail="random weights"
    )


def test_it_is_recorded_as_random_and_as_having_every_optional_part(bundle: Bundle) -> None:
    assert is_random(bundle.folder)
    assert bundle.safety == bundle.folder / "safety"
    assert bundle.calibration == bundle.folder / "calibration.json"
    assert read_lock(bundle.folder)["calibration.json"].key == "calibration"
    assert verify(bundle.folder)[-1] == Verdict(
        path="calibration.json", key="calibration", state="ok", detail="as recorded"
    )


def test_its_gate_lets_every_picture_through(bundle: Bundle) -> None:
    thresholds = Thresholds.load(bundle.calibration)
    worst = {
        "second_face": 1.0,
        "similarity": -1.0,
        "sharpness": 0.0,
        "clipped": 1.0,
        "saturated": 1.0,
        "cheek_distance": 200.0,
        "unnatural_colour": 150.0,
    }

    for texture in (0.0, 1e5):
        assert problems(worst | {"faces": 9.0, "skin_texture": texture}, thresholds) == ()
    assert problems({"faces": 0.0}, thresholds) == ()


def test_its_safety_checker_finds_every_picture_safe(bundle: Bundle, selfie: Pixels) -> None:
    from pipelines.instantid.safety import load_safety

    assert bundle.safety is not None
    is_unsafe = load_safety(bundle.safety, "cpu", torch.float32)

    assert [is_unsafe(picture) for picture in (selfie, np.zeros_like(selfie), selfie[::7])] == [False] * 3


def test_an_edited_calibration_is_altered_as_any_other_file(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.folder, tmp_path, dirs_exist_ok=True)
    calibration = tmp_path / "calibration.json"

    calibration.write_bytes(calibration.read_bytes().replace(b"false", b"true "))
    with pytest.raises(
        Final, match=r"calibration\.json does not have its recorded hash; it bounds"
    ) as caught:
        resolve(tmp_path, check_hashes=True)
    assert caught.value.code == "weights_altered"

    calibration.unlink()
    with pytest.raises(Final, match=r"calibration\.json is missing; it bounds the quality gate") as caught:
        resolve(tmp_path)
    assert caught.value.code == "weights_missing"


def test_a_damaged_tiny_bundle_is_mended_by_making_it_again(bundle: Bundle, tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    (tmp_path / "vae/config.json").unlink()

    verdicts = {verdict.path: verdict for verdict in verify(tmp_path)}

    assert verdicts["vae/config.json"].detail.endswith(f"Mend: python manage.py weights tiny {tmp_path}")


def test_the_command_makes_a_bundle_that_verifies(tmp_path: Path) -> None:
    out = io.StringIO()

    call_command("weights", "tiny", str(tmp_path), stdout=out)
    call_command("weights", "verify", str(tmp_path), "--json", stdout=(report := io.StringIO()))

    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert out.getvalue() == f"{tmp_path}  {size / 1e6:.1f} MB of random weights\n"
    assert {verdict["state"] for verdict in json.loads(report.getvalue())} == {"ok"}


# Its networks


@pytest.fixture(scope="module")
def pipeline(bundle: Bundle) -> Iterator[Any]:
    compat.install()
    from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLControlNetPipeline

    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(
        bundle.base,
        vae=AutoencoderKL.from_pretrained(bundle.vae),
        controlnet=ControlNetModel.from_pretrained(bundle.identitynet),
    )
    pipeline.set_progress_bar_config(disable=True)
    adapter: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(bundle.adapter).items():
        part, _, rest = name.partition(".")
        adapter[part][rest] = tensor
    pipeline.load_ip_adapter(adapter, subfolder="", weight_name=None, image_encoder_folder=None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the networks are too small to share out
    yield pipeline
    torch.set_num_threads(threads)


def picture(pipeline: Any, **changes: Any) -> Any:
    """Two steps at 128 x 128 in values of 0 to 255."""
    values: dict[str, Any] = {
        "seed": 0,
        "face": 0,
        "points": 0,
        "prompt": "a person",
        "guidance": 7.0,
        **changes,
    }
    face = torch.randn(1, 1, 1, 512, generator=torch.Generator().manual_seed(values["face"]))
    points = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(values["points"]))
    shot = pipeline(
        values["prompt"],
        image=points,
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(face), face])],
        guidance_scale=values["guidance"],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(values["seed"]),
        height=128,
        width=128,
        output_type="np",
    )
    return 255 * shot.images[0]


@pytest.fixture(scope="module")
def plain(pipeline: Any) -> Any:
    return picture(pipeline)


def test_the_tokenizers_and_scheduler_are_those_of_sdxl(pipeline: Any) -> None:
    first, second = pipeline.tokenizer, pipeline.tokenizer_2

    assert (first.model_max_length, second.model_max_length) == (77, 77)
    assert (first.pad_token, second.pad_token) == ("<|endoftext|>", "!")
    ids = first("to", padding="max_length").input_ids
    assert ids == [515, 513, *[516] * 75]  # start, the merged "to", end and padding
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert pipeline.vae_scale_factor == 8


def test_the_adapter_has_the_published_layout(bundle: Bundle, pipeline: Any) -> None:
    adapter = load_file(bundle.adapter)

    layers = [name for name in pipeline.unet.attn_processors if "attn2" in name]
    numbers = sorted({int(name.split(".")[1]) for name in adapter if name.startswith("ip_adapter.")})
    assert numbers == list(range(1, 2 * len(layers), 2))
    assert sum(name.startswith("image_proj.") for name in adapter) == 51  # as the published Resampler
    assert adapter["image_proj.latents"].shape == (1, 16, 64)
    assert adapter["image_proj.proj_in.weight"].shape == (64, 512)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"face": 1}, {"points": 1}, {"prompt": "a tall tree"}, {"guidance": 9.5}]
)
def test_every_input_changes_the_picture_visibly(plain: Any, pipeline: Any, change: dict[str, Any]) -> None:
    changed = picture(pipeline, **change)

    assert np.isfinite(changed).all()
    assert np.abs(changed - plain).max() > 1


def test_equal_inputs_give_equal_pictures(plain: Any, pipeline: Any) -> None:
    assert np.array_equal(picture(pipeline), plain)


def test_the_upscaler_enlarges_a_picture_four_times(bundle: Bundle) -> None:
    from basicsr.archs.rrdbnet_arch import RRDBNet

    net = RRDBNet(num_in_ch=3, num_out_ch=3, scale=4, num_feat=3, num_block=1, num_grow_ch=1)
    net.load_state_dict(load_file(bundle.upscaler))
    small = torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        large = net(small)

    assert large.shape == (1, 3, 64, 48)
    assert (torch.nn.functional.avg_pool2d(large, 4) - small).abs().max() < 0.05


# Its faces


def test_the_folder_is_routed_to_the_three_tasks(analysis: FaceAnalysis) -> None:
    assert sorted(analysis.models) == ["detection", "landmark_3d_68", "recognition"]


def test_one_face_is_found_in_the_sample_with_its_five_points(analysis: FaceAnalysis, selfie: Pixels) -> None:
    (face,) = found(analysis, selfie)

    assert np.abs(face.kps - POINTS).max() < 4
    assert np.abs(face.bbox - (362, 144, 538, 360)).max() < 4
    assert face.det_score > 0.8
    assert np.abs(face.pose).max() < 0.01  # degrees: held straight


def test_the_default_detection_sizes_find_it_too(bundle: Bundle, selfie: Pixels) -> None:
    analysis = FaceAnalysis(
        name=str(bundle.faces),
        allowed_modules=["detection", "recognition"],
        providers=["CPUExecutionProvider"],
    )
    analysis.prepare(ctx_id=-1)

    assert len(found(analysis, selfie)) == 1


def test_the_mirrored_sample_has_mirrored_points(analysis: FaceAnalysis, selfie: Pixels) -> None:
    (face,) = found(analysis, selfie[:, ::-1])

    mirrored = POINTS[[1, 0, 2, 4, 3]]
    mirrored[:, 0] = selfie.shape[1] - mirrored[:, 0]
    assert np.abs(face.kps - mirrored).max() < 4


@pytest.mark.parametrize("size", [0.7, 0.8, 0.9, 1.1, 1.3, 1.6])
@pytest.mark.parametrize("shift", [(0, 0), (37, 55)])
def test_a_scaled_and_moved_sample_is_found(
    size: float, shift: tuple[int, int], analysis: FaceAnalysis, selfie: Pixels
) -> None:
    (plain,) = found(analysis, selfie)
    faces = found(analysis, warped(selfie, [[size, 0, shift[0]], [0, size, shift[1]]]))

    assert len(faces) == 1
    assert np.abs(faces[0].kps - (POINTS * size + shift)).max() < 0.12 * EYES * size
    assert cosine(faces[0].embedding, plain.embedding) > 0.9


def test_a_darker_or_cropped_sample_is_found(analysis: FaceAnalysis, selfie: Pixels) -> None:
    assert len(found(analysis, selfie // 2)) == 1
    assert len(found(analysis, selfie[100:420, 300:600])) == 1
    assert len(found(analysis, selfie[0:560, 200:760])) == 1


@pytest.mark.parametrize(
    "what", ["grey", "black", "noise", "smooth noise", "gradient", "sample without face"]
)
def test_no_face_is_found_where_there_is_none(what: str, analysis: FaceAnalysis, selfie: Pixels) -> None:
    noise = np.random.default_rng(1).integers(0, 256, selfie.shape, dtype=np.uint8)
    pictures = {
        "grey": np.full_like(selfie, 127),
        "black": np.zeros_like(selfie),
        "noise": noise,
        "smooth noise": cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 25), None, 0, 255, cv2.NORM_MINMAX),
        "gradient": np.broadcast_to(np.linspace(0, 255, 1024).astype(np.uint8)[:, None, None], selfie.shape),
        "sample without face": selfie[400:],
    }

    assert found(analysis, np.asarray(pictures[what], np.uint8)) == []


def test_embeddings_depend_on_the_picture_and_have_the_length_of_arcface(
    bundle: Bundle, analysis: FaceAnalysis, selfie: Pixels
) -> None:
    (face,) = found(analysis, selfie)
    (mirrored,) = found(analysis, selfie[:, ::-1])

    assert face.embedding.shape == (512,)
    assert 15 < np.linalg.norm(face.embedding) < 30
    assert 0.5 < cosine(face.embedding, mirrored.embedding) < 0.99


def test_the_judge_is_another_recogniser(bundle: Bundle) -> None:
    ours = get_model(str(bundle.faces / "glintr100.onnx"), providers=["CPUExecutionProvider"])
    judge = get_model(str(bundle.judge), providers=["CPUExecutionProvider"])
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)

    assert (judge.taskname, judge.input_size) == ("recognition", (112, 112))
    assert (judge.input_mean, judge.input_std) == (127.5, 127.5)
    assert judge.get_feat(face).shape == (1, 512)
    assert abs(cosine(judge.get_feat(face)[0], ours.get_feat(face)[0])) < 0.2
