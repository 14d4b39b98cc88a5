"""Paints what stands behind the person: drawn in linear light, then thrown out of focus like a lens would.

A real lens turns every bright point into an even disc, not into a Gaussian smudge; blurring with a disc, in
linear light and with lamps brighter than white, is what makes a drawing read as a photograph.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from pipelines.presets import HEIGHT, WIDTH

Plane = NDArray[np.float32]
"""(height, width, 3) float32."""

Colour = tuple[float, float, float]
"""sRGB, 0 to 1."""

_SCALE: Final = 0.5  # scenes are drawn at this size: nothing in them is sharp
_SHOULDER: Final = 0.62  # linear value above which highlights are rolled off instead of clipped


class Canvas:
    """A scene in linear light. Lengths are shares of its width: x from 0 to 1, y from 0 to 1.286."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.width, self.height = round(WIDTH * _SCALE), round(HEIGHT * _SCALE)
        self.light: Plane = np.zeros((self.height, self.width, 3), np.float32)
        rows, columns = np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)
        self.x, self.y = columns / self.width, rows / self.width

    def fill(self, top: Colour, bottom: Colour) -> None:
        """Covers everything with a vertical gradient."""
        share = (self.y / self.y.max())[..., None]
        self.light = ((1 - share) * linear(top) + share * linear(bottom)).astype(np.float32)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour, gain: float = 1
    ) -> None:
        """Covers a rectangle; `gain` above 1 makes it a source of light."""
        corners = self._pixels(left, top), self._pixels(right, bottom)
        cv2.rectangle(self.light, *corners, self._value(colour, gain), -1)

    def disc(self, x: float, y: float, radius: float, colour: Colour, gain: float = 1) -> None:
        """Covers a disc."""
        size = max(1, round(radius * self.width))
        cv2.circle(self.light, self._pixels(x, y), size, self._value(colour, gain), -1, cv2.LINE_AA)

    def ellipse(
        self, x: float, y: float, radii: tuple[float, float], degrees: float, colour: Colour, gain: float = 1
    ) -> None:
        """Covers a turned ellipse."""
        axes = (max(1, round(radii[0] * self.width)), max(1, round(radii[1] * self.width)))
        cv2.ellipse(
            self.light, self._pixels(x, y), axes, degrees, 0, 360, self._value(colour, gain), -1, cv2.LINE_AA
        )

    def polygon(self, points: list[tuple[float, float]], colour: Colour, gain: float = 1) -> None:
        """Covers a polygon."""
        corners = np.array([self._pixels(x, y) for x, y in points], np.int32)
        cv2.fillPoly(self.light, [corners], self._value(colour, gain), cv2.LINE_AA)

    def glow(self, x: float, y: float, radius: float, colour: Colour, gain: float) -> None:
        """Adds a soft pool of light."""
        falloff = np.exp(-((self.x - x) ** 2 + (self.y - y) ** 2) / (2 * radius**2))
        self.light += (gain * falloff)[..., None] * linear(colour)

    def shade(self, factor: NDArray[np.float32]) -> None:
        """Multiplies the light by a (height, width) plane."""
        self.light *= factor[..., None]

    def mottle(self, cells: int, strength: float) -> None:
        """Uneven paint, plaster or paper: slow variation of brightness, `cells` across."""
        self.shade((1 + strength * self.clouds(cells)).clip(0.2, 3))

    def clouds(self, cells: int) -> NDArray[np.float32]:
        """(height, width) smooth noise, mean 0, deviation about 1, `cells` across."""
        grid = self.rng.standard_normal((round(cells * 1.3) + 3, cells + 3)).astype(np.float32)
        plane = cv2.resize(grid, (self.width, self.height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(plane * 1.3, dtype=np.float32)

    def blur(self, radius: float) -> None:
        """Throws everything drawn so far out of focus: an even disc of this radius."""
        reach = radius * self.width
        size = math.ceil(reach)
        rows, columns = np.mgrid[-size : size + 1, -size : size + 1]
        kernel = np.clip(reach + 0.5 - np.hypot(rows, columns), 0, 1).astype(np.float32)
        blurred = cv2.filter2D(self.light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
        self.light = np.asarray(blurred, dtype=np.float32)

    def vignette(self, strength: float) -> None:
        """Darkens the corners."""
        far = ((self.x - 0.5) ** 2 + (self.y - 0.643) ** 2) / (0.5**2 + 0.643**2)
        self.shade((1 - strength * far).astype(np.float32))

    def developed(self) -> Plane:
        """(1152, 896, 3) float32 sRGB, 0 to 1."""
        over = np.maximum(self.light - _SHOULDER, 0) / (1 - _SHOULDER)
        toned = np.minimum(self.light, _SHOULDER) + (1 - _SHOULDER) * (1 - np.exp(-over))
        full = cv2.resize(
            np.clip(toned, 0, 1).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
        )
        return np.asarray(np.clip(full, 0, 1) ** (1 / 2.2), dtype=np.float32)

    def _pixels(self, x: float, y: float) -> tuple[int, int]:
        return round(x * self.width), round(y * self.width)

    def _value(self, colour: Colour, gain: float) -> tuple[float, float, float]:
        red, green, blue = (float(value) for value in linear(colour) * gain)
        return red, green, blue


@dataclass(frozen=True, slots=True, kw_only=True)
class Backdrop:
    """A finished background: (1152, 896, 3) float32 sRGB, and the side its light comes from."""

    pixels: Plane
    light_from: int  # -1 left, +1 right


Scene = Callable[[Canvas], None]
"""Draws a scene whose light comes from the left."""


def paint(scene: Scene, seed: int) -> Backdrop:
    """The scene as this seed has it; mirrored for about half of all seeds."""
    rng = np.random.default_rng(seed)
    is_mirrored = bool(rng.random() < 0.5)
    canvas = Canvas(rng)
    scene(canvas)
    pixels = canvas.developed()
    if is_mirrored:
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    return Backdrop(pixels=pixels, light_from=1 if is_mirrored else -1)


def linear(colour: Colour) -> NDArray[np.float32]:
    """(3,) float32 linear light of an sRGB colour, with the plain 2.2 power that `developed` undoes."""
    return np.array(colour, np.float32) ** np.float32(2.2)
