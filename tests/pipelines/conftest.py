"""The sample selfie, decoded once, as every test of the pipeline starts from it."""

import pytest

from pipelines import images
from pipelines.sample import sample_selfie
from pipelines.types import Pixels


@pytest.fixture(scope="session")
def selfie_jpeg() -> bytes:
    return sample_selfie()


@pytest.fixture(scope="session")
def decoded_selfie(selfie_jpeg: bytes) -> Pixels:
    pixels = images.decode_jpeg(images.clean_portrait(selfie_jpeg))
    pixels.flags.writeable = False
    return pixels


@pytest.fixture
def selfie(decoded_selfie: Pixels) -> Pixels:
    return decoded_selfie.copy()
