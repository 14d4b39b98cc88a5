"""The way of the published code over the same architecture: what ours is compared with.

diffusers' StableDiffusionXLControlNetPipeline with its own IP adapter, one picture a call: both halves of
the guidance in every step, IdentityNet in every step (outside its window its result is multiplied by zero),
face tokens and text projected anew in every layer of every step. Enlarging by realesrgan's RealESRGANer.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines import compat

compat.install()

import torch  # noqa: E402
from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLControlNetPipeline  # noqa: E402

from pipelines.instantid.schedulers import SDXL_SCHEDULER  # noqa: E402
from pipelines.types import Pixels  # noqa: E402
from tests.bench.full_size import (  # noqa: E402
    EMBEDDING,
    TEXT_TOKENS,
    Architecture,
    build_adapter,
    build_identitynet,
    build_rrdbnet,
    build_unet,
    drawn,
    keypoint_drawing,
)
from tests.pipelines.instantid.models import FaceControlNet  # noqa: E402


class _FromTheFirstStep(DPMSolverMultistepScheduler):
    """Told where it starts, it need not look its timestep up, which the meta device could not answer."""

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.set_begin_index(0)


def stock_pipeline(
    architecture: Architecture, device: torch.device, dtype: torch.dtype, vae: Any = None
) -> StableDiffusionXLControlNetPipeline:
    """The pipeline, its adapter loaded natively and IdentityNet given face tokens in place of the text."""
    unet = build_unet(architecture, device, dtype)
    adapter = build_adapter(architecture, unet, device, dtype)
    pipe = StableDiffusionXLControlNetPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        controlnet=build_identitynet(architecture, device, dtype, FaceControlNet),
        scheduler=_FromTheFirstStep(**SDXL_SCHEDULER, use_karras_sigmas=True),
        add_watermarker=False,
    )
    with device:
        pipe.load_ip_adapter(
            adapter,
            subfolder="",
            weight_name=None,
            image_encoder_folder=None,
            low_cpu_mem_usage=False,
        )
        torch.nn.Module.to(pipe.unet, device, dtype)
    pipe.set_ip_adapter_scale(0.8)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_call(
    architecture: Architecture,
    pipe: StableDiffusionXLControlNetPipeline,
    *,
    seed: int,
    steps: int,
    window: float = 0.8,
    output_type: str = "latent",
) -> Any:
    """One picture: latents (4, height / 8, width / 8), or what `output_type` asks for."""
    device, dtype, context = pipe.unet.device, pipe.unet.dtype, architecture.context

    def given(seed: int, *shape: int) -> torch.Tensor:
        return drawn(seed, *shape).to(device, dtype)

    face = given(1000, 1, 1, 1, EMBEDDING)
    faces = torch.cat([torch.zeros_like(face), face])
    with torch.inference_mode():
        pipe.controlnet.face_tokens = pipe.unet.encoder_hid_proj([faces])[0].squeeze(1)
        return pipe(
            image=keypoint_drawing(architecture, 0)[None],
            width=architecture.width,
            height=architecture.height,
            num_inference_steps=steps,
            guidance_scale=7.5,
            controlnet_conditioning_scale=0.8,
            control_guidance_end=window,
            prompt_embeds=given(2000, 1, TEXT_TOKENS, context),
            pooled_prompt_embeds=given(2010, 1, architecture.pooled),
            negative_prompt_embeds=given(2001, 1, TEXT_TOKENS, context),
            negative_pooled_prompt_embeds=given(2011, 1, architecture.pooled),
            ip_adapter_image_embeds=[faces],
            latents=given(seed, 1, 4, architecture.height // 8, architecture.width // 8),
            output_type=output_type,
        ).images[0]


class StockUpscaler:
    """RealESRGANer as its own command line sets it up: whole pictures, half precision on a GPU."""

    def __init__(self, architecture: Architecture, device: torch.device) -> None:
        from realesrgan import RealESRGANer

        network = build_rrdbnet(architecture, torch.device("cpu"), torch.float32)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "RealESRGAN_x4plus.pth"
            torch.save({"params_ema": network.state_dict()}, path)
            self._upsampler = RealESRGANer(
                scale=4, model_path=str(path), model=network, half=device.type == "cuda", device=device
            )

    def enlarge(self, pixels: Pixels, long_edge: int) -> Pixels:
        """The picture with its long edge at `long_edge`; (height, width, 3) uint8."""
        enlarged, _ = self._upsampler.enhance(pixels, outscale=long_edge / max(pixels.shape[:2]))
        return enlarged  # type: ignore[no-any-return]
