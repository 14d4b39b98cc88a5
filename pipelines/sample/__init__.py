"""The public-domain portrait that stands in for a customer's selfie in the demo and the tests."""

import io
from importlib.resources import files
from typing import Final

from PIL import Image

CAMERA: Final = "SampleCam 3000"
ENLARGEMENT: Final = 2  # the picture's eyes are 44 px apart, faces.MIN_EYE_DISTANCE is 60

_MAKE, _ORIENTATION, _GPS = 0x010F, 0x0112, 0x8825  # EXIF 2.32, tables 4 and 6
_GPS_POSITION: Final = {
    1: "N",
    2: (28.0, 34.0, 23.0),
    3: "W",
    4: (80.0, 39.0, 3.0),
}  # a launch pad in Florida


def sample_selfie() -> bytes:
    """A 1024 x 1024 JPEG as a phone would write it: with a camera name, a GPS position and an orientation.

    The metadata is there so that the demo and the tests can show that none of it survives.
    """
    with files(__name__).joinpath("astronaut.png").open("rb") as file, Image.open(file) as original:
        size = (original.width * ENLARGEMENT, original.height * ENLARGEMENT)
        enlarged = original.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[_MAKE] = CAMERA
    exif[_ORIENTATION] = 1
    exif[_GPS] = _GPS_POSITION
    out = io.BytesIO()
    enlarged.save(out, "JPEG", quality=95, exif=exif)
    return out.getvalue()
