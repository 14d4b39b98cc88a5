"""The invisible mark in the pixels: a short message, "made by software", and how it is found again.

What XMP and Content Credentials say goes with the file and is lost with a screenshot. This mark goes with the
picture. The arithmetic, quantised singular values of small blocks, is that of the library wmforge (and of
blind-watermark, whose format it keeps); what is ours is where it is applied, and when a mark counts as found.

The library's blocks are blocks of pixels, so that a resized picture has others. Here they always are blocks
of one small plane, to which writer and reader scale whatever picture they get: a block is 1/28 of the
picture's width. The plane is the blue difference Cb, since eyes see neither fine nor faint changes of it.

The mark is one and the same in all pictures. It holds nothing of the customer, the order or the time. Whether
a model made the picture is the XMP's to say. It is no secret and no proof: who knows this file can write the
mark, or remove it.
"""

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from wmforge.core import embed_blocks, extract_blocks

from pipelines.types import Pixels

MESSAGE: Final = b"SW" + zlib.crc32(b"SW").to_bytes(4)  # software; and its check, which balances the bits
BITS: Final = 8 * len(MESSAGE)
REQUIRED_BITS: Final = 41
"""Of a whole picture. 48 fair coins agree with the message that often once in 3 million times."""
REQUIRED_BITS_OF_A_PART: Final = 45
"""Where _SEARCHED guesses are made of size, place and first bit: by chance once in 300 000 pictures."""

_COLUMNS, _ROWS = 28, 36  # of blocks: near to square ones for 7 : 9, which all our pictures have
_BLOCK: Final = 4  # the library's, in values of the plane
_WIDTH, _HEIGHT = _BLOCK * _COLUMNS, _BLOCK * _ROWS
# In singular values, which are 4 times a block's mean: no block moves by more than 2.25 levels of Cb. With 10
# a fifth of the pictures is lost after resizing to 512 px and JPEG 70; with 16 flat backdrops look mottled.
_STEP: Final = 12.0
_UNUSED_STEP: Final = (
    1e-3  # of the second singular value: too fine to change anything, and its vote is ignored
)
_BLUE_DIFFERENCE: Final = np.array([[0.5, -0.331264, -0.168736]], dtype=np.float32)  # JFIF 1.02; of B, G, R
_MIDDLE: Final = 128  # makes Cb positive, and a block's mean its first singular value
_BLUE_OF_CB: Final = 2.0  # Cb is half of blue, and blue alone is changed
_FRACTIONS: Final = 16  # of a level of blue
_ROW_STRIDE: Final = 29  # no divisor in common with 48: neither rows nor columns repeat a few bits only

_FINE: Final = 2  # a part is placed to half a value of the plane
_PHASES: Final = _FINE * _BLOCK
_WIDTHS: Final = range(_FINE * _WIDTH, _FINE * _WIDTH * 2 // 5, -3)
"""Of a part in the fine plane, if it shows everything down to 2/5 of the original's width."""
_PLACES: Final = tuple(itertools.product(range(0, _PHASES, _FINE), range(0, _PHASES, _FINE)))
_STEPS: Final = tuple(itertools.product((-1, 0, 1), repeat=2))
_LOOKED_AT_CLOSELY: Final = 8  # of the places that agree best
_SEARCHED: Final = BITS * (len(_WIDTHS) * len(_PLACES) + _LOOKED_AT_CLOSELY * 3 * len(_STEPS))
_LEAST_BLOCKS: Final = 2 * BITS
# From the middle of the picture, where a wrong guess of the size moves blocks least: as many as half the
# original's width and height show. More take longer and find no more.
_MOST_ROWS, _MOST_COLUMNS = _ROWS // 2, _COLUMNS // 2 + 2

_Plane = NDArray[np.float32]
_Votes = NDArray[np.bool_]
_Place = tuple[int, int]  # row and column in the fine plane


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The best agreement with the message that was found in a picture."""

    bits: int
    """How many of the message's 48 agree; without a mark about 24, and up to 41 as the best of all parts."""
    is_part: bool
    """Whether they were found by taking the picture for a part of a larger one."""

    @property
    def is_marked(self) -> bool:
        """Whether so many bits agree by chance in no picture that anybody will see."""
        return self.bits >= (REQUIRED_BITS_OF_A_PART if self.is_part else REQUIRED_BITS)


def chance_of_mistake() -> float:
    """How probable it is at most that an unmarked picture is called marked, if its bits fall like coins."""
    return _chance(REQUIRED_BITS) + _SEARCHED * _chance(REQUIRED_BITS_OF_A_PART)


def _chance(least: int) -> float:
    return float(sum(math.comb(BITS, bits) for bits in range(least, BITS + 1)) / 2**BITS)


def embed(picture: Pixels) -> Pixels:
    """The same memory with the mark in it: (height, width, 3) uint8 in OpenCV's order BGR, any size.

    Only blue changes: by 2 levels as a rule, by 8 of 255 at most. Equal pictures come out equal.
    """
    height, width = picture.shape[:2]
    blocks = _blocks(_plane(picture, _WIDTH, _HEIGHT))
    bits = _message()[_layout(_ROWS, _COLUMNS)]
    marked = embed_blocks(blocks, bits, _unshuffled(len(blocks)), _STEP, _UNUSED_STEP)
    change = _BLUE_OF_CB * (marked - blocks).reshape(_ROWS, _COLUMNS, _BLOCK, _BLOCK)
    change = np.rint(change.swapaxes(1, 2).reshape(_HEIGHT, _WIDTH) * _FRACTIONS) + _MIDDLE
    # In bytes, sixteenths of a level: enlarged and added in half the time that floats take.
    small = np.clip(change, 0, 255).astype(np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    blue = cv2.extractChannel(picture, 0)
    blue = cv2.addWeighted(blue, 1, large, 1 / _FRACTIONS, -_MIDDLE / _FRACTIONS)
    cv2.insertChannel(blue, picture, 0)
    return picture


def read(picture: Pixels) -> Reading:
    """Whether a picture, (height, width, 3) uint8 in OpenCV's order BGR, carries the mark.

    It may have been resized, recompressed and cropped, to 2/5 of its width and height at least; not turned,
    mirrored or stretched beyond recognition. 10 ms where the mark is whole, seconds where it is not.
    """
    whole = read_whole(picture)
    return whole if whole.is_marked else read_part(picture)


def read_whole(picture: Pixels) -> Reading:
    """As `read`, of a picture that was not cropped."""
    votes = _votes(_blocks(_plane(picture, _WIDTH, _HEIGHT)))
    bits = _majorities(votes[None], _layout(_ROWS, _COLUMNS))
    return Reading(bits=int((bits == _message()).sum()), is_part=False)


def read_part(picture: Pixels) -> Reading:
    """As `read`, of a part of a picture: the best of all places, or the first that is enough."""
    found: list[tuple[int, int, _Place]] = []
    for fine_width in _WIDTHS:
        agreements = _agreements(picture, fine_width, _PLACES)
        found += zip(agreements, itertools.repeat(fine_width), _PLACES, strict=False)
        if max(agreements, default=0) >= REQUIRED_BITS_OF_A_PART:
            break
    best = sorted(found, reverse=True)[:_LOOKED_AT_CLOSELY]
    for _, fine_width, (top, left) in best:
        near = [((top + down) % _PHASES, (left + right) % _PHASES) for down, right in _STEPS]
        for width in range(fine_width - 1, fine_width + 2):
            found += zip(_agreements(picture, width, near), itertools.repeat(width), near, strict=False)
    return Reading(bits=max((agreement for agreement, _, _ in found), default=0), is_part=True)


def _agreements(picture: Pixels, fine_width: int, places: Sequence[_Place]) -> list[int]:
    """For each place of the first block, the best agreement of all first bits; none of too small a part."""
    height, width = picture.shape[:2]
    fine_height = round(fine_width * height / width)
    rows, columns = ((side - _PHASES + 1) // _PHASES for side in (fine_height, fine_width))
    if rows * columns < _LEAST_BLOCKS or fine_height > _FINE * _HEIGHT + _PHASES:
        return []
    rows, columns = min(rows, _MOST_ROWS), min(columns, _MOST_COLUMNS)
    fine = _plane(picture, fine_width, fine_height)
    means = np.asarray(cv2.blur(fine, (_FINE, _FINE), anchor=(0, 0)), dtype=np.float32)
    first_row, first_column = (fine_height - _PHASES * rows) // 2, (fine_width - _PHASES * columns) // 2
    middle = means[max(first_row - _PHASES // 2, 0) :, max(first_column - _PHASES // 2, 0) :]
    parts = [
        middle[top : top + _PHASES * rows : _FINE, left : left + _PHASES * columns : _FINE]
        for top, left in places
    ]
    votes = _votes(np.concatenate([_blocks(part) for part in parts])).reshape(len(places), rows * columns)
    bits = _majorities(votes, _layout(rows, columns)).astype(np.float32)
    rotations = np.stack([np.roll(_message(), -first) for first in range(BITS)]).astype(np.float32)
    agreements = bits @ rotations.T + (1 - bits) @ (1 - rotations.T)
    return [int(agreement) for agreement in agreements.max(axis=1)]


def _plane(picture: Pixels, width: int, height: int) -> _Plane:
    """Cb of the picture at this size, 0 to 255; halved first, as often as that goes, since that is quick."""
    small = picture
    while small.shape[0] >= 4 * height and small.shape[1] >= 4 * width:
        rows, columns = small.shape[0] // 2, small.shape[1] // 2
        small = np.asarray(
            cv2.resize(small[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA)
        )
    small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA))
    return np.asarray(cv2.transform(small.astype(np.float32), _BLUE_DIFFERENCE) + _MIDDLE, dtype=np.float32)


def _blocks(plane: _Plane) -> _Plane:
    """(n, 4, 4): the blocks of a plane, row by row."""
    rows, columns = plane.shape[0] // _BLOCK, plane.shape[1] // _BLOCK
    return plane.reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2).reshape(-1, _BLOCK, _BLOCK)


def _votes(blocks: _Plane) -> _Votes:
    """(n,): the bit that each block speaks for."""
    confidence = extract_blocks(blocks, _unshuffled(len(blocks)), _STEP, _UNUSED_STEP)
    return np.asarray(confidence > 0.5)  # the first singular value counts 3/4, the second 1/4


def _majorities(votes: _Votes, layout: NDArray[np.intp]) -> _Votes:
    """(m, 48): for each of m readings of the same blocks what most votes for each bit say."""
    belongs = np.equal.outer(layout, np.arange(BITS)).astype(np.float32)
    return np.asarray(2 * (votes.astype(np.float32) @ belongs) > belongs.sum(axis=0))


def _layout(rows: int, columns: int) -> NDArray[np.intp]:
    """(rows * columns,): which bit of the message each block carries.

    A part that begins elsewhere has the same layout with another first bit.
    """
    return np.add.outer(_ROW_STRIDE * np.arange(rows), np.arange(columns)).ravel() % BITS


@lru_cache(maxsize=1)
def _message() -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(MESSAGE, dtype=np.uint8))


def _unshuffled(count: int) -> NDArray[np.intp]:
    """The library can hide which values of a block it uses; here nothing is to be hidden."""
    return np.broadcast_to(np.arange(_BLOCK**2), (count, _BLOCK**2))
