"""One picture that shows all pictures of an order, as a photographer hands it over."""

import io
from collections.abc import Sequence
from math import ceil
from typing import Final

from PIL import Image, ImageDraw, ImageFont

CELL_WIDTH: Final = 448
MARGIN: Final = 28
CAPTION: Final = 40
PAPER: Final = (247, 245, 240)
INK: Final = (52, 50, 46)


def contact_sheet(pictures: Sequence[tuple[str, bytes]], *, columns: int = 0) -> bytes:
    """A JPEG of all pictures, given as (caption, JPEG bytes), in a grid; `columns` 0 chooses one."""
    columns = columns or min(len(pictures), 4 if len(pictures) <= 16 else 8)
    opened = [(caption, Image.open(io.BytesIO(jpeg))) for caption, jpeg in pictures]
    cell_height = max(round(CELL_WIDTH * image.height / image.width) for _, image in opened) + CAPTION
    rows = ceil(len(opened) / columns)
    sheet = Image.new(
        "RGB",
        (MARGIN + columns * (CELL_WIDTH + MARGIN), MARGIN + rows * (cell_height + MARGIN)),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=22)
    for place, (caption, image) in enumerate(opened):
        left = MARGIN + (place % columns) * (CELL_WIDTH + MARGIN)
        top = MARGIN + (place // columns) * (cell_height + MARGIN)
        image.draft("RGB", (CELL_WIDTH, cell_height))  # decodes a 4K JPEG at the size that is needed
        image.thumbnail((CELL_WIDTH, cell_height - CAPTION), Image.Resampling.LANCZOS)
        sheet.paste(image, (left, top))
        draw.text((left, top + image.height + 10), caption, font=font, fill=INK)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88, subsampling=0)
    return file.getvalue()
