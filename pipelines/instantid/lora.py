"""LoRAs of the bundle: loaded once, then switched on for a forward and off again, never fused.

The files are read by diffusers (its own layout, PEFT's and kohya's) and run by peft. Nothing is loaded by
halves: every tensor of a file must have its place in the UNet or in a text encoder.
"""

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
    delete_adapter_layers,
)
from safetensors import SafetensorError, safe_open

from pipelines.errors import Final
from pipelines.presets import Lora

Tensors: TypeAlias = dict[str, torch.Tensor]

_PEFT_LOG = logging.getLogger("transformers.integrations.peft")
_METADATA = "lora_adapter_metadata"  # where diffusers keeps peft's configuration in the file's header
_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"  # kohya's names
_MOST_NAMED = 5  # keys in one message


def canonical(loras: Sequence[Lora]) -> tuple[Lora, ...]:
    """The set that `loras` means, equal for equal pictures: by name, without those of weight 0.

    Shots of one set share a forward, and a cache of encoded prompts has the set in its key.
    """
    return tuple(sorted((lora for lora in loras if lora.weight), key=lambda lora: lora.name))


class Loras:
    """The LoRAs of one bundle over one UNet and its text encoders. For one thread."""

    def __init__(self, bundle: Path | None, unet: Any, text_encoders: Sequence[Any] = ()) -> None:
        """`text_encoders` are SDXL's, first and second, or none."""
        self.active: tuple[Lora, ...] = ()
        self._folder = None if bundle is None else bundle / "loras"
        self._networks = {"unet": unet} | dict(
            zip(("text_encoder", "text_encoder_2"), text_encoders, strict=False)
        )
        self._adapters: dict[str, str] = {}  # file name to peft's name, which must not hold just any text
        self._numbers = itertools.count()
        self._layers: list[Any] = []

    @contextmanager
    def activated(self, loras: Sequence[Lora]) -> Iterator[tuple[Lora, ...]]:
        """While it is open, the UNet and the text encoders run with exactly these LoRAs; gives the set.

        Encode a style's text, and call `encode_prompt`, inside of it: cached keys and values carry the LoRAs.
        With none the networks are bitwise what they were without any. Afterwards the set from before acts
        again. Raises Final("lora_missing") and Final("bad_lora"), naming the file and the keys.
        """
        before, wanted = self.active, canonical(loras)
        try:
            for lora in wanted:
                self._require(lora.name)
            self._switch(wanted)
            yield wanted
        finally:
            self._switch(before)

    def _switch(self, wanted: tuple[Lora, ...]) -> None:
        if wanted == self.active:
            return
        names = [self._adapters[lora.name] for lora in wanted]
        weights = [(name, lora.weight) for name, lora in zip(names, wanted, strict=True)]
        for layer in self._layers:
            # What peft's enable_adapters and set_adapter set. They also visit each parameter's requires_grad,
            # which takes 0.1 s and more for the 722 layers of SDXL's UNet, at every step of a mixed batch.
            vars(layer).update(_disable_adapters=not names, _active_adapter=names)
            for name, weight in weights:
                layer.set_scale(name, weight)
        self.active = wanted

    def _require(self, name: str) -> None:
        """Load `name` unless it is there. No LoRA is active afterwards if it was not."""
        if name in self._adapters:
            return
        if self._folder is None:
            raise Final("lora_missing", f"LoRA {name!r} was asked for, and no bundle was given")
        path, adapter = self._folder / f"{name}.safetensors", f"style-{next(self._numbers)}"
        self._switch(())
        with torch.inference_mode(False):  # parameters made in it could not be switched outside of it
            tensors, metadata = _read(path)
            parts = _converted(path, tensors, self._networks)
            try:
                for prefix, part in parts.items():
                    _inject(path, part, prefix, self._networks[prefix], adapter, metadata)
            except Final:
                for network in self._networks.values():
                    delete_adapter_layers(network, adapter)
                raise
            finally:
                self._layers = [layer for network in self._networks.values() for layer in _layers(network)]
                for layer in self._layers:
                    layer.enable_adapters(enabled=False)  # loading switches it on
        self._adapters[name] = adapter


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of a file, alphas multiplied in, and peft's configuration in its header, if any."""
    if not path.is_file():
        raise Final("lora_missing", f"{path} is not there. Mend: put the LoRA's .safetensors file there")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            header = file.metadata() or {}
        metadata = dict(json.loads(header.get(_METADATA, "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _bad(path, f"no safetensors file of a LoRA ({type(error).__name__}: {error})") from error
    return _without_alphas(tensors), metadata


def _without_alphas(tensors: Tensors) -> Tensors:
    """kohya's alpha / rank multiplied into the upper matrix, so that every layer's scale is 1.

    diffusers looks alphas up by names that it converts differently for attention layers, and would give
    them the most common alpha of the file.
    """
    folded = dict(tensors)
    for key, alpha in tensors.items():
        stem = key.removesuffix(_ALPHA)
        if stem != key and f"{stem}{_UP}" in tensors and f"{stem}{_DOWN}" in tensors:
            up, rank = tensors[f"{stem}{_UP}"], tensors[f"{stem}{_DOWN}"].shape[0]
            folded[f"{stem}{_UP}"] = (up.float() * (float(alpha) / rank)).to(up.dtype)
            del folded[key]
    return folded


def _converted(path: Path, tensors: Tensors, networks: Mapping[str, Any]) -> dict[str, Tensors]:
    """The tensors by network, under the names of its modules; Final("bad_lora") unless each has a place and
    fits it."""
    try:
        state_dict, _ = StableDiffusionXLPipeline.lora_state_dict(
            dict(tensors), unet_config=networks["unet"].config
        )
        parts = {prefix: _peft_names(state_dict, prefix, network) for prefix, network in networks.items()}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise _bad(path, f"its keys are not a LoRA's for SDXL: {str(error)[:500]}") from error
    in_file = {id(tensor): key for key, tensor in tensors.items()}
    wrong = []
    for prefix, part in parts.items():
        modules = dict(networks[prefix].named_modules())
        problems = ((tensor, _problem(key, tensor, part, modules)) for key, tensor in part.items())
        wrong += [f"{in_file.pop(id(tensor))} {problem}".strip() for tensor, problem in problems if problem]
    placed = {id(tensor) for part in parts.values() for tensor in part.values()}
    wrong += [f"{key} is not known" for ident, key in in_file.items() if ident not in placed]
    if wrong or not placed:
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise _bad(path, f"{'; '.join(sorted(wrong)[:_MOST_NAMED]) or 'it is empty'}{more}")
    return {prefix: part for prefix, part in parts.items() if part}


def _peft_names(state_dict: Tensors, prefix: str, network: Any) -> Tensors:
    """The tensors of one network as `<module>.lora_A.weight` and `.lora_B.weight`, as the loaders do it."""
    part = {
        key.removeprefix(f"{prefix}."): tensor
        for key, tensor in state_dict.items()
        if key.startswith(f"{prefix}.")
    }
    if not part:
        return {}
    if prefix == "unet":
        is_peft = "lora_A" in next(iter(part))
        return part if is_peft else dict(convert_unet_state_dict_to_peft(part))
    renamed = convert_state_dict_to_peft(convert_state_dict_to_diffusers(part))
    is_flat = not hasattr(network, "text_model")  # as of transformers 5
    return {key.removeprefix("text_model.") if is_flat else key: t for key, t in renamed.items()}


def _problem(key: str, tensor: torch.Tensor, part: Tensors, modules: Mapping[str, Any]) -> str:
    """What is wrong with one matrix of `part`; empty if nothing is."""
    name, _, leaf = key.rpartition(".lora_")
    module = modules.get(name)
    weight = getattr(getattr(module, "base_layer", module), "weight", None)
    if weight is None or leaf not in ("A.weight", "B.weight"):
        return "is not known"
    other = part.get(f"{name}.lora_{'B' if leaf[0] == 'A' else 'A'}.weight")
    if other is None:
        return "has no counterpart"
    if leaf[0] == "A":
        expected = (tensor.shape[0], *weight.shape[1:])
    else:
        expected = (weight.shape[0], other.shape[0], *(1 for _ in weight.shape[2:]))
    return "" if tuple(tensor.shape) == expected else f"is {tuple(tensor.shape)}, not {expected}"


def _inject(
    path: Path, part: Tensors, prefix: str, network: Any, adapter: str, metadata: Mapping[str, Any]
) -> None:
    """Put `part` beside the weights of `network`, in its number format; Final("bad_lora") if peft cannot."""
    config = {key: value for key, value in metadata.items() if key.startswith(f"{prefix}.")}
    state_dict = {f"{prefix}.{key}": tensor for key, tensor in part.items()}
    told = {"network_alphas": None, "adapter_name": adapter, "metadata": config or None}
    _PEFT_LOG.setLevel(logging.ERROR)  # it reports every matrix as missing just before it sets it
    try:
        if prefix == "unet":
            StableDiffusionXLPipeline.load_lora_into_unet(state_dict, unet=network, **told)
        else:
            StableDiffusionXLPipeline.load_lora_into_text_encoder(
                state_dict, text_encoder=network, prefix=prefix, **told
            )
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _bad(path, f"peft cannot load it into {prefix}: {str(error)[:500]}") from error
    finally:
        _PEFT_LOG.setLevel(logging.NOTSET)
    for layer in _layers(network):
        weight = layer.get_base_layer().weight  # peft keeps float32 beside bfloat16, at a cast per call
        for matrices in (layer.lora_A, layer.lora_B):
            if adapter in matrices:
                matrices[adapter].to(weight.device, weight.dtype).requires_grad_(False)


def _layers(network: Any) -> list[Any]:
    return [module for module in network.modules() if hasattr(module, "lora_A")]


def _bad(path: Path, problem: str) -> Final:
    return Final("bad_lora", f"{path}: {problem}")
