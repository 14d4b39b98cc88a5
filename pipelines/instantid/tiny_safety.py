"""A safety checker of random numbers in the published layout, for `make_tiny_bundle`."""

import json
from pathlib import Path
from typing import Final

WIDTH: Final = 32

_PREPROCESSOR: Final = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


def make_safety(folder: Path) -> None:
    """Write the checker's three files into `folder`, drawn from torch's random numbers; half a megabyte.

    No picture crosses one of its concepts: their bounds are 1, the largest cosine.
    """
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config=CLIPTextConfig(**sizes).to_dict(),  # not used, but part of the published configuration
        vision_config=CLIPVisionConfig(**sizes, image_size=224, patch_size=32).to_dict(),
        projection_dim=WIDTH,
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        for parameter in checker.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)  # CLIP's own start is so small that all pictures look alike
    config.architectures = [StableDiffusionSafetyChecker.__name__]
    config.save_pretrained(folder)
    # The published file has the vision model's names one level deeper.
    tensors = {
        name.replace("vision_model.", "vision_model.vision_model.", 1): tensor
        for name, tensor in checker.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=2) + "\n")
