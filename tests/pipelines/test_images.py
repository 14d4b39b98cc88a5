"""What may come in as a photo, and what never comes out of it."""

import io
import struct
import subprocess
import sys
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from pipelines import images
from pipelines.errors import Refused
from pipelines.sample import CAMERA

SIZE = (400, 300)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def heic(image: Image.Image, **options: object) -> bytes:
    """The picture as an iPhone's format, without putting libheif's plugin into this process's Pillow."""
    import pillow_heif

    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, format="HEIF", **options)
    return out.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    row = zlib.compress(bytes(3 * min(width, 400) + 1) * min(height, 300))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def two_frames() -> list[Image.Image]:
    return [picture(), picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]


def text_bomb() -> bytes:
    return png_of(400, 300, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(60_000_000), 9)))


def profile_bomb() -> bytes:
    return png_of(400, 300, chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(60_000_000), 9)))


@cache
def hostile() -> dict[str, tuple[bytes, str]]:
    jpeg, frames = saved(picture(), "JPEG"), two_frames()
    more = {"save_all": True, "append_images": frames[1:]}
    return {
        "empty": (b"", "empty_file"),
        "one byte": (b"x", "not_an_image"),
        "text": (b"not a picture at all\n" * 40, "not_an_image"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="300"/>', "not_an_image"),
        "gif": (saved(picture(), "GIF"), "not_an_image"),
        "bmp": (saved(picture(), "BMP"), "not_an_image"),
        "tiff": (saved(picture(), "TIFF"), "not_an_image"),
        "pdf": (saved(picture(), "PDF"), "not_an_image"),
        "jpeg magic only": (b"\xff\xd8\xff", "truncated_image"),
        "jpeg cut at 10 %": (jpeg[: len(jpeg) // 10], "truncated_image"),
        "jpeg cut at 50 %": (jpeg[: len(jpeg) // 2], "truncated_image"),
        "png cut": (saved(picture(), "PNG")[:2000], "truncated_image"),
        "webp cut": (saved(picture(), "WEBP")[:900], "truncated_image"),
        "png bomb": (png_of(20_000, 20_000), "too_many_pixels"),
        "png with absurd size": (png_of(2**31 - 1, 2**31 - 1), "too_many_pixels"),
        "12 001 px wide": (png_of(12_001, 4000), "too_many_pixels"),
        "51 MP": (png_of(8500, 6000), "too_many_pixels"),
        "png text bomb": (text_bomb(), "too_many_pixels"),
        "png profile bomb": (profile_bomb(), "too_many_pixels"),
        "too small": (saved(picture(size=(255, 300)), "JPEG"), "image_too_small"),
        "one pixel": (saved(picture(size=(1, 1)), "PNG"), "image_too_small"),
        "banner": (saved(picture(size=(1300, 300)), "JPEG"), "odd_shape"),
        "apng": (saved(frames[0], "PNG", **more), "animated_image"),
        "animated webp": (saved(frames[0], "WEBP", **more), "animated_image"),
    }


@pytest.mark.parametrize("name", list(hostile()))
def test_a_hostile_file_is_refused_with_its_code(name: str) -> None:
    raw, code = hostile()[name]

    with pytest.raises(Refused) as refusal:
        images.clean_portrait(raw)

    assert refusal.value.code == code


def test_a_file_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(Refused) as refusal:
        images.clean_portrait(bytes(images.MAX_UPLOAD_BYTES + 1))

    assert refusal.value.code == "file_too_large"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "1", "P"])
def test_every_colour_mode_becomes_rgb_of_the_same_size(mode: str) -> None:
    kind = "PNG" if mode in ("1", "P") else "JPEG"
    source = picture(mode)

    cleaned = images.decode_jpeg(images.clean_portrait(saved(source, kind)))

    assert cleaned.shape == (300, 400, 3)
    expected = np.asarray(source.convert("RGB"), dtype=np.float32)
    assert np.abs(cleaned.mean(axis=(0, 1)) - expected.mean(axis=(0, 1))).max() < 4


def test_16_bit_grey_keeps_its_brightness() -> None:
    ramp = np.tile(np.linspace(0, 65535, 400).astype(np.uint16), (300, 1))

    cleaned = images.decode_jpeg(images.clean_portrait(saved(Image.fromarray(ramp), "PNG")))

    assert cleaned[150, [0, 200, 399], 0] == pytest.approx([0, 128, 255], abs=2)


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", SIZE, (200, 0, 0, 0))
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([200, 0, 0])

    for raw in (saved(clear, "PNG"), saved(clear, "WEBP"), saved(palette, "PNG", transparency=0)):
        assert images.decode_jpeg(images.clean_portrait(raw)).min() == 255


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, (0, 0)),
        (2, (0, -1)),
        (3, (-1, -1)),
        (4, (-1, 0)),
        (5, (0, 0)),
        (6, (0, -1)),
        (7, (-1, -1)),
        (8, (-1, 0)),
    ],
)
def test_exif_orientation_is_applied_to_the_pixels(orientation: int, corner: tuple[int, int]) -> None:
    source = Image.new("RGB", SIZE, "black")
    source.paste("white", (0, 0, 60, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation

    cleaned = images.decode_jpeg(images.clean_portrait(saved(source, "JPEG", exif=exif)))

    assert cleaned.shape == ((400, 300, 3) if orientation >= 5 else (300, 400, 3))
    assert cleaned[corner].min() > 240
    others = {(0, 0), (0, -1), (-1, 0), (-1, -1)} - {corner}
    assert max(int(cleaned[other].max()) for other in others) < 15


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_a_broken_exif_block_is_ignored(block: bytes) -> None:
    cleaned = images.decode_jpeg(images.clean_portrait(saved(picture(), "JPEG", exif=block)))

    assert cleaned.shape == (300, 400, 3)


def test_nothing_but_pixels_survives(selfie_jpeg: bytes) -> None:
    exif = Image.Exif()
    exif[0x010F] = "MARKER-camera"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "MARKER-text")
    jpeg = saved(picture(), "JPEG", exif=exif, comment=b"MARKER-comment", icc_profile=b"MARKER-icc" * 30)
    tail = b"PK\x03\x04MARKER-tail<?php ?>"

    assert CAMERA.encode() in selfie_jpeg
    for raw in (jpeg + tail, saved(picture(), "PNG", pnginfo=info) + tail, selfie_jpeg):
        cleaned = images.clean_portrait(raw)
        assert b"MARKER" not in cleaned
        assert CAMERA.encode() not in cleaned
        assert b"Exif" not in cleaned
        assert b"ICC_PROFILE" not in cleaned
        assert cleaned.endswith(b"\xff\xd9")
        with Image.open(io.BytesIO(cleaned)) as image:
            assert dict(image.getexif()) == {}
            assert set(image.info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_a_phone_jpeg_with_more_pictures_gives_its_first() -> None:
    first = Image.new("RGB", SIZE, (10, 200, 30))
    raw = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", SIZE, (200, 0, 0))])

    cleaned = images.decode_jpeg(images.clean_portrait(raw))

    assert cleaned.mean(axis=(0, 1)) == pytest.approx([10, 200, 30], abs=3)


def test_an_embedded_profile_is_converted_to_srgb() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    renamed = profile.replace(b"s\0R\0G\0B", b"s\0w\0a\0p")
    swapped = renamed.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    red = Image.new("RGB", SIZE, (220, 20, 20))

    cleaned = images.decode_jpeg(images.clean_portrait(saved(red, "PNG", icc_profile=swapped)))

    assert cleaned.mean(axis=(0, 1)) == pytest.approx([20, 20, 220], abs=6)


def test_a_profile_that_does_not_fit_is_ignored() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = images.clean_portrait(saved(picture(), "PNG"))

    for profile in (lab, b"no profile at all"):
        tagged = saved(picture(), "PNG", icc_profile=profile)
        assert images.clean_portrait(tagged) == plain


def test_a_large_photo_is_shrunk_to_4096() -> None:
    cleaned = images.decode_jpeg(images.clean_portrait(saved(picture(size=(6000, 3000)), "JPEG")))

    assert cleaned.shape == (2048, 4096, 3)


def test_encoding_is_lossy_only_a_little_and_repeatable() -> None:
    pixels = np.asarray(picture())

    first, second = images.encode_jpeg(pixels, 93), images.encode_jpeg(pixels.copy(), 93)

    assert first == second
    assert np.abs(images.decode_jpeg(first).astype(int) - pixels).mean() < 2
    with Image.open(io.BytesIO(first)) as image:
        assert {entry[1:3] for entry in image.layer} == {(1, 1)}
        assert dict(image.getexif()) == {}


def test_the_web_tier_s_modules_never_load_opencv() -> None:
    names = ["types", "images", "presets", "errors", "sandbox", "styles", "sample"]
    code = (
        f"import sys; {'; '.join(f'import pipelines.{name}' for name in names)}; print('cv2' in sys.modules)"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout == "False\n"


def test_the_sandbox_s_child_starts_without_numpy() -> None:
    code = (
        "import sys, pipelines.images, pipelines.sandbox; print('numpy' in sys.modules, 'cv2' in sys.modules)"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout == "False False\n"
