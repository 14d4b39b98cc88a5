"""Which weight files the InstantID engine uses: where they come from, what they must be, and their licences.

Sizes and hashes stand here only where independent public records of this revision agree on them; None means
that the first fetch records what it got. `commercial` is "ask" where the published statements contradict each
other, so that a paid service needs permission in writing.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

PICKLES: Final = (".bin", ".pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One file of the bundle. `size_bytes` and `sha256` are those of the file as published.

    `key` names the model it belongs to; licences are accepted by key. `host` is "hub" (a model hub) or
    "release" (a code repository's release). `source` is the path in the repository; with `member` it is an
    archive, and the file is that member. `path` is where the file ends up in the bundle. A bundle is complete
    without the files that are `is_optional`; they are fetched only when asked for by their key.
    """

    key: str
    purpose: str
    host: str
    repository: str
    revision: str
    source: str
    path: str
    licence: str
    commercial: str
    member: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    is_optional: bool = False

    def __post_init__(self) -> None:
        if self.commercial not in ("yes", "no", "ask"):
            raise ValueError(f"commercial must be yes, no or ask, not {self.commercial!r}")
        if self.host not in ("hub", "release"):
            raise ValueError(f"host must be hub or release, not {self.host!r}")

    @property
    def is_pickle(self) -> bool:
        """Whether the published file is a pickle, to be converted before anything reads it."""
        return PurePosixPath(self.source).suffix in PICKLES

    @property
    def fetched_path(self) -> str:
        """Path in the bundle right after fetching: `path`, or beside it with the pickle's own suffix."""
        suffix = PurePosixPath(self.source).suffix
        return str(PurePosixPath(self.path).with_suffix(suffix)) if self.is_pickle else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What all files of one model share."""

    key: str
    purpose: str
    repository: str
    revision: str
    licence: str
    commercial: str
    host: str = "hub"
    is_optional: bool = False

    def file(
        self,
        source: str,
        path: str,
        size_bytes: int | None = None,
        sha256: str | None = None,
        *,
        member: str | None = None,
        purpose: str | None = None,
    ) -> WeightFile:
        return WeightFile(
            key=self.key,
            purpose=purpose or self.purpose,
            host=self.host,
            repository=self.repository,
            revision=self.revision,
            source=source,
            path=path,
            licence=self.licence,
            commercial=self.commercial,
            member=member,
            size_bytes=size_bytes,
            sha256=sha256,
            is_optional=self.is_optional,
        )


# Half-precision files of a diffusers folder; they lose the ".fp16" of their names in the bundle, so that the
# engine reads one name whatever the base is. The folder's own VAE is left out: `vae` replaces it.
_BASE_FILES: Final = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.fp16.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
)
_MERGES: Final = (524619, "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a")
_VOCAB: Final = (1059962, "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349")
_SDXL_PINS: Final[dict[str, tuple[int, str]]] = {
    "model_index.json": (609, "6d7b93508390ab91ac5bfbe4aeb4dc2d83f7bb1b05fb069d714b5b0c75f70d44"),
    "scheduler/scheduler_config.json": (
        479,
        "af3e45a949aff8b8341ab8b811429ec03fee857a700a1d9477363e4fff9666e2",
    ),
    "text_encoder/config.json": (565, "39b8b2e4b1949e36969caa425b6c81c68bace99198dd9078ce05d16ad401fe7f"),
    "text_encoder/model.fp16.safetensors": (
        246144152,
        "660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",
    ),
    "text_encoder_2/config.json": (575, "a892d1c3a69a7e9247a24de2bc1d5891e3109a54696e53be20093af671072c34"),
    "text_encoder_2/model.fp16.safetensors": (
        1389382176,
        "ec310df2af79c318e24d20511b601a591ca8cd4f1fce1d8dff822a356bcdb1f4",
    ),
    "tokenizer/merges.txt": _MERGES,
    "tokenizer/special_tokens_map.json": (
        472,
        "c4864a9376a8401918425bed71fc14fc0e81f9b59ec45c1cf96cccb2df508eac",
    ),
    "tokenizer/tokenizer_config.json": (
        737,
        "19d7b034cb0cc3ce9766c2231373ab8aa8991fc72e2c8f76558bfaae3de0d563",
    ),
    "tokenizer/vocab.json": _VOCAB,
    "tokenizer_2/merges.txt": _MERGES,
    "tokenizer_2/special_tokens_map.json": (
        460,
        "f118ab3a983206e4f32583448de6bd6aae4ee21869135cef1f5848a753cdaab6",
    ),
    "tokenizer_2/tokenizer_config.json": (
        725,
        "c9d23941f76a41cbd50eda9290f57be7828f0a7a677939e9ef181f7e12bd1bdf",
    ),
    "tokenizer_2/vocab.json": _VOCAB,
    "unet/config.json": (1680, "30ebc70750223e59006f7f2b4e1e6c102570aa19a9c4ae3e1fbe7591332dbae6"),
    "unet/diffusion_pytorch_model.fp16.safetensors": (
        5135149760,
        "83e012a805b84c7ca28e5646747c90a243c65c8ba4f070e2d7ddc9d74661e139",
    ),
}

_SDXL = _Model(
    key="sdxl-base",
    purpose="draws the picture (the plain base)",
    repository="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    licence="CreativeML Open RAIL++-M",
    commercial="yes",
)
_REALVIS = _Model(
    key="realvisxl",
    purpose="draws the picture (a better photographic base)",
    repository="SG161222/RealVisXL_V5.0",
    revision="ac93e0dda1f6d448cae19bbfab8c5e720a5e48bc",
    licence="CreativeML Open RAIL++-M",
    commercial="yes",
)
_VAE = _Model(
    key="vae",
    purpose="turns latents into pixels, safe in half precision",
    repository="madebyollin/sdxl-vae-fp16-fix",
    revision="207b116dae70ace3637169f1ddd2434b91b3a8cd",
    licence="MIT",
    commercial="yes",
)
_INSTANTID = _Model(
    key="instantid",
    purpose="keeps the person's likeness",
    repository="InstantX/InstantID",
    revision="57b32dfee076092ad2930c71fd6d439c2c3b1820",
    licence="Apache-2.0 by its card, research only by its authors' README",
    commercial="ask",
)
_ANTELOPE = _Model(
    key="antelopev2",
    purpose="finds and describes faces",
    repository="deepinsight/insightface",
    revision="v0.7",
    licence="insightface models: non-commercial research only, unless licensed",
    commercial="no",
    host="release",
)
_AURAFACE = _Model(
    key="auraface",
    purpose="judges the likeness of finished pictures, independent of the engine's own recogniser",
    repository="fal/AuraFace-v1",
    revision="af6d057c9b0ec4071d4c49c80e3539258798b609",
    licence="Apache-2.0",
    commercial="yes",
)
_REALESRGAN = _Model(
    key="realesrgan",
    purpose="enlarges pictures for the premium size",
    repository="xinntao/Real-ESRGAN",
    revision="v0.1.0",
    licence="BSD-3-Clause",
    commercial="yes",
    host="release",
)
_REALESRGAN_GENERAL = _Model(
    key="realesrgan-general",
    purpose="enlarges pictures for the premium size, with a fourteenth of the weights",
    repository="xinntao/Real-ESRGAN",
    revision="v0.2.5.0",
    licence="BSD-3-Clause",
    commercial="yes",
    host="release",
)
_SAFETY = _Model(
    key="safety-checker",
    purpose="refuses pictures that show what must not be shown",
    repository="CompVis/stable-diffusion-safety-checker",
    # The half-precision safetensors, a proposal to the repository that its main branch has not taken in.
    revision="1664e306d2258485321cbbd8083074c9474d4e41",
    licence="not stated on its card; part of Stable Diffusion 1, CreativeML Open RAIL-M",
    commercial="ask",
    is_optional=True,
)


def _base(model: _Model, pins: dict[str, tuple[int, str]]) -> tuple[WeightFile, ...]:
    return tuple(
        model.file(source, f"base/{source.replace('.fp16.', '.')}", *pins.get(source, (None, None)))
        for source in _BASE_FILES
    )


def _antelope(name: str, purpose: str, size_bytes: int, sha256: str) -> WeightFile:
    # The archive holds a folder of its own name, which insightface's loader then does not look into
    # (deepinsight/insightface#2517): in the bundle the files lie flat.
    return _ANTELOPE.file(
        "antelopev2.zip",
        f"faces/{name}",
        size_bytes,
        sha256,
        member=f"antelopev2/{name}",
        purpose=purpose,
    )


MANIFEST: Final[tuple[WeightFile, ...]] = (
    *_base(_SDXL, _SDXL_PINS),
    *_base(_REALVIS, {}),
    _VAE.file("config.json", "vae/config.json"),
    _VAE.file(
        "diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        334643238,
        "1b909373b28f2137098b0fd9dbc6f97f8410854f31f84ddc9fa04b077b0ace2c",
    ),
    _INSTANTID.file("ControlNetModel/config.json", "identitynet/config.json"),
    _INSTANTID.file(
        "ControlNetModel/diffusion_pytorch_model.safetensors",
        "identitynet/diffusion_pytorch_model.safetensors",
        2502139136,
        "c8127be9f174101ebdafee9964d856b49b634435cf6daa396d3f593cf0bbbb05",
        purpose="steers the place and shape of the face (IdentityNet)",
    ),
    _INSTANTID.file(
        "ip-adapter.bin",
        "adapter/ip-adapter.safetensors",
        1691134141,
        "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1",
        purpose="turns the face's embedding into tokens (identity adapter)",
    ),
    _antelope(
        "scrfd_10g_bnkps.onnx",
        "finds faces and their five points",
        16923827,
        "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
    ),
    _antelope(
        "glintr100.onnx",
        "describes a face as InstantID was trained with",
        260665334,
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
    ),
    _antelope(
        "1k3d68.onnx",
        "measures how a head is turned",
        143607619,
        "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc",
    ),
    _AURAFACE.file(
        "glintr100.onnx",
        "judge/auraface.onnx",
        260694151,
        "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60",
    ),
    _REALESRGAN.file(
        "RealESRGAN_x4plus.pth",
        "upscaler/realesrgan.safetensors",
        67040989,
        "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
    ),
    _REALESRGAN_GENERAL.file(
        "realesr-general-x4v3.pth",
        "upscaler/realesrgan.safetensors",
        4885111,
        "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
    ),
    _SAFETY.file("config.json", "safety/config.json"),
    _SAFETY.file("preprocessor_config.json", "safety/preprocessor_config.json"),
    _SAFETY.file(
        "model.safetensors",
        "safety/model.safetensors",
        608018440,
        "08902f19b1cfebd7c989f152fc0507bef6898c706a91d666509383122324b511",
    ),
)

CHOICES: Final = {
    "base": ("sdxl-base", "realvisxl"),
    "upscaler": ("realesrgan", "realesrgan-general"),
}
"""The models of which a bundle holds one, under the same names in that folder; the first is the usual."""

ALTERNATIVES: Final = frozenset(key for keys in CHOICES.values() for key in keys[1:])
"""The models that a bundle holds only where they were chosen."""

KEYS: Final = tuple(dict.fromkeys(file.key for file in MANIFEST))
