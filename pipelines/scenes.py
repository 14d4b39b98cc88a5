"""The eight places the built-in styles are set in, as drawings for `backdrops.paint`.

Every scene is lit from the left and keeps the middle, where the head will be, calmer than the sides.
"""

from typing import Final

import numpy as np

from pipelines.backdrops import Canvas, Colour, Scene

_BOTTOM: Final = 1.2857  # canvas height / canvas width


def studio(canvas: Canvas) -> None:
    """Seamless paper from the rolls a studio keeps, a spot behind the head."""
    papers: tuple[tuple[Colour, Colour, float], ...] = (  # upper and lower tone, strength of the spot
        ((0.30, 0.345, 0.40), (0.22, 0.25, 0.295), 0.95),  # grey-blue
        ((0.185, 0.215, 0.265), (0.12, 0.14, 0.175), 0.60),  # slate
        ((0.42, 0.435, 0.45), (0.32, 0.33, 0.345), 0.95),  # light grey
        ((0.36, 0.345, 0.33), (0.26, 0.245, 0.23), 0.80),  # warm grey
    )
    rng = canvas.rng
    upper, lower, spot = papers[int(rng.integers(len(papers)))]
    glow = (upper[0] * 1.7, upper[1] * 1.7, upper[2] * 1.65)
    canvas.fill(upper, lower)
    canvas.mottle(5, 0.025)
    canvas.mottle(17, 0.012)
    canvas.glow(float(rng.uniform(0.3, 0.45)), float(rng.uniform(0.4, 0.6)), 0.42, glow, spot)
    canvas.glow(0.0, 0.2, 0.5, (glow[0] * 0.85, glow[1] * 0.85, glow[2] * 0.85), 0.25)
    canvas.blur(0.03)
    canvas.vignette(0.45)


def wood_office(canvas: Canvas) -> None:
    """Dark panelling, a shelf and shaded lamps, warm."""
    rng = canvas.rng
    canvas.fill((0.27, 0.17, 0.105), (0.17, 0.10, 0.065))
    step = float(rng.uniform(0.26, 0.34))
    start = float(rng.uniform(-step, 0))
    for left in np.arange(start, 1.1, step):
        for top, bottom in ((-0.1, 0.52), (0.58, 1.4)):
            canvas.rectangle(left, top, left + step - 0.03, bottom, (0.33, 0.205, 0.125))
            canvas.rectangle(
                left + 0.022, top + 0.022, left + step - 0.052, bottom - 0.022, (0.225, 0.135, 0.085)
            )
        canvas.rectangle(left - 0.012, -0.1, left, 1.4, (0.10, 0.06, 0.04))
    canvas.mottle(9, 0.12)
    canvas.glow(0.05, 0.35, 0.33, (0.95, 0.66, 0.36), 0.32)
    canvas.rectangle(0.8, 0.6, 1.1, 1.4, (0.09, 0.06, 0.05))
    for _ in range(7):
        left = float(rng.uniform(0.8, 1.0))
        canvas.rectangle(
            left, float(rng.uniform(0.45, 0.53)), left + 0.03, 0.6, _vary(rng, (0.45, 0.28, 0.18), 0.14)
        )
    lamp_x, lamp_y = float(rng.uniform(0.07, 0.16)), float(rng.uniform(0.34, 0.46))
    canvas.polygon(
        [
            (lamp_x - 0.05, lamp_y),
            (lamp_x + 0.05, lamp_y),
            (lamp_x + 0.09, lamp_y + 0.13),
            (lamp_x - 0.09, lamp_y + 0.13),
        ],
        (1.0, 0.80, 0.52),
        2.2,
    )
    canvas.rectangle(lamp_x - 0.008, lamp_y + 0.13, lamp_x + 0.008, lamp_y + 0.3, (0.5, 0.38, 0.2))
    canvas.glow(lamp_x, lamp_y + 0.12, 0.17, (1.0, 0.72, 0.4), 0.4)
    _points_of_light(canvas, 9, (0.78, 0.1, 1.02, 0.44), (1.0, 0.74, 0.42), (6, 26))
    canvas.blur(0.034)
    canvas.vignette(0.5)


def painted(canvas: Canvas) -> None:
    """Hand-painted canvas in two colours, light of a third from the side."""
    palettes: tuple[tuple[Colour, Colour, Colour], ...] = (
        ((0.10, 0.42, 0.46), (0.86, 0.44, 0.36), (0.98, 0.66, 0.50)),
        ((0.24, 0.20, 0.50), (0.80, 0.36, 0.52), (0.96, 0.60, 0.66)),
        ((0.84, 0.56, 0.16), (0.72, 0.28, 0.20), (1.0, 0.80, 0.45)),
        ((0.12, 0.30, 0.56), (0.20, 0.56, 0.58), (0.60, 0.86, 0.85)),
    )
    rng = canvas.rng
    first, second, glow = palettes[int(rng.integers(len(palettes)))]
    slope = canvas.x * 0.75 + canvas.y * 0.55 - 0.55 + 0.10 * canvas.clouds(4) + 0.04 * canvas.clouds(11)
    share = (1 / (1 + np.exp(-5 * slope)))[..., None]
    tones = np.array(first, np.float32) * (1 - share) + np.array(second, np.float32) * share
    canvas.light = (tones**2.2).astype(np.float32)
    canvas.mottle(6, 0.10)
    canvas.mottle(20, 0.06)
    canvas.glow(float(rng.uniform(0.1, 0.3)), float(rng.uniform(0.3, 0.6)), 0.34, glow, 0.4)
    canvas.blur(0.018)
    canvas.vignette(0.42)


def glass_office(canvas: Canvas) -> None:
    """An open office behind glass: a window front, rows of ceiling lights, cool."""
    rng = canvas.rng
    canvas.fill((0.50, 0.56, 0.61), (0.27, 0.31, 0.36))
    horizon = float(rng.uniform(0.60, 0.68))
    canvas.polygon([(0, horizon + 0.13), (1, horizon), (1, 1.3), (0, 1.3)], (0.24, 0.275, 0.315))
    for index in range(6):
        far = 0.8**index
        left, right = 0.66 - 0.72 * far, 0.66 - 0.60 * far
        top, bottom = horizon - 0.62 * far, horizon + 0.10 * far
        canvas.rectangle(left, top, left + (right - left) * 0.82, bottom, (0.80, 0.89, 0.97), 1.15)
        canvas.rectangle(
            left, top + (bottom - top) * 0.62, left + (right - left) * 0.82, bottom, (0.52, 0.63, 0.70)
        )
    for index in range(5):
        far = 0.72**index
        y = horizon - 0.62 * far
        canvas.polygon(
            [
                (0.66 + 0.02 * far, y),
                (0.66 + 0.42 * far, y),
                (0.66 + 0.40 * far, y + 0.03 * far),
                (0.66 + 0.03 * far, y + 0.03 * far),
            ],
            (0.94, 0.98, 1.0),
            2.6,
        )
    canvas.rectangle(0.86, 0.2, 1.1, 1.0, (0.16, 0.21, 0.27))
    canvas.rectangle(0.875, 0.25, 1.1, 0.93, (0.25, 0.34, 0.43))
    for _ in range(4):
        left = float(rng.uniform(0.02, 0.75))
        top = horizon + float(rng.uniform(0.06, 0.2))
        canvas.rectangle(left, top, left + 0.14, top + 0.085, _vary(rng, (0.30, 0.52, 0.68), 0.1), 1.1)
        canvas.rectangle(left - 0.05, top + 0.1, left + 0.22, top + 0.13, (0.62, 0.65, 0.67))
    _points_of_light(canvas, 12, (0.72, 0.22, 1.0, 0.9), (0.62, 0.86, 1.0), (3, 12))
    canvas.mottle(7, 0.06)
    canvas.blur(0.036)
    canvas.vignette(0.35)


def library(canvas: Canvas) -> None:
    """Shelves of book spines in reading light."""
    rng = canvas.rng
    canvas.fill((0.20, 0.135, 0.09), (0.15, 0.10, 0.07))
    spines: tuple[Colour, ...] = (
        (0.42, 0.17, 0.13), (0.17, 0.26, 0.24), (0.55, 0.43, 0.28), (0.16, 0.19, 0.30),
        (0.34, 0.22, 0.13), (0.64, 0.56, 0.42), (0.28, 0.30, 0.20), (0.48, 0.26, 0.14),
    )  # fmt: skip
    row = float(rng.uniform(0.22, 0.26))
    for top in np.arange(float(rng.uniform(-row, 0)), _BOTTOM, row):
        left = -0.02
        while left < 1.02:
            width = float(rng.uniform(0.014, 0.038))
            gap = 0.035 + float(rng.uniform(0, 0.05))
            colour = _vary(rng, spines[int(rng.integers(len(spines)))], 0.07)
            if rng.random() > 0.07:
                canvas.rectangle(left, top + gap, left + width - 0.003, top + row - 0.022, colour)
            if rng.random() < 0.3:
                canvas.rectangle(
                    left, top + gap + 0.03, left + width - 0.003, top + gap + 0.04, (0.72, 0.58, 0.32)
                )
            left += width
        canvas.rectangle(-0.1, top + row - 0.022, 1.1, top + row, (0.36, 0.235, 0.14))
        canvas.rectangle(-0.1, top, 1.1, top + 0.018, (0.07, 0.045, 0.03))
    for post in (float(rng.uniform(0.04, 0.16)), float(rng.uniform(0.86, 0.97))):
        canvas.rectangle(post, -0.1, post + 0.045, 1.4, (0.30, 0.19, 0.115))
    canvas.shade((1.35 - 0.75 * canvas.x).astype(np.float32))
    canvas.glow(0.0, 0.25, 0.38, (1.0, 0.80, 0.54), 0.16)
    canvas.blur(0.029)
    canvas.vignette(0.45)


def clinic(canvas: Canvas) -> None:
    """White walls, a large window, a little green."""
    rng = canvas.rng
    canvas.fill((0.86, 0.885, 0.89), (0.76, 0.79, 0.80))
    end = float(rng.uniform(0.24, 0.32))
    canvas.rectangle(-0.1, 0.06, end, 0.92, (0.95, 0.98, 1.0), 1.5)
    canvas.rectangle(-0.1, 0.64, end, 0.92, (0.74, 0.85, 0.78), 1.1)
    for x in (end * 0.45, end):
        canvas.rectangle(x - 0.008, 0.04, x + 0.008, 0.94, (0.74, 0.77, 0.79))
    canvas.rectangle(-0.1, 0.92, end + 0.02, 0.96, (0.93, 0.94, 0.94))
    door = float(rng.uniform(0.72, 0.80))
    canvas.rectangle(door, 0.22, door + 0.26, 1.4, (0.66, 0.74, 0.76))
    canvas.rectangle(door + 0.018, 0.245, door + 0.242, 1.4, (0.74, 0.82, 0.83))
    canvas.rectangle(door + 0.07, 0.33, door + 0.19, 0.62, (0.90, 0.95, 0.96), 1.1)
    canvas.rectangle(-0.1, 1.02, 1.1, 1.06, (0.48, 0.70, 0.70))
    canvas.rectangle(end + 0.12, 0.06, end + 0.34, 0.085, (1.0, 1.0, 1.0), 2.4)
    for _ in range(14):
        at = float(rng.uniform(0.0, 0.16)), float(rng.uniform(0.72, 1.0))
        canvas.ellipse(*at, (0.05, 0.014), float(rng.uniform(0, 180)), _vary(rng, (0.33, 0.52, 0.34), 0.08))
    canvas.glow(0.0, 0.45, 0.4, (0.98, 0.99, 1.0), 0.22)
    canvas.mottle(5, 0.02)
    canvas.blur(0.036)
    canvas.vignette(0.16)


def brick_cafe(canvas: Canvas) -> None:
    """A brick wall, hanging bulbs, a window beside it."""
    rng = canvas.rng
    canvas.fill((0.50, 0.42, 0.36), (0.40, 0.33, 0.28))
    height, width = 0.058, 0.155
    for row, top in enumerate(np.arange(-0.02, _BOTTOM, height)):
        for left in np.arange(-width + (row % 2) * width / 2, 1.05, width):
            colour = _vary(rng, (0.545, 0.315, 0.225), 0.055)
            canvas.rectangle(left, top, left + width - 0.014, top + height - 0.013, colour)
    canvas.mottle(6, 0.10)
    canvas.shade((1.45 - 0.95 * canvas.x).astype(np.float32))
    canvas.glow(0.05, 0.5, 0.4, (1.0, 0.84, 0.62), 0.20)
    canvas.blur(0.013)
    edge = float(rng.uniform(0.06, 0.14))
    canvas.rectangle(-0.1, -0.1, edge, 1.0, (1.0, 0.95, 0.85), 1.25)
    canvas.rectangle(edge, -0.1, edge + 0.03, 1.02, (0.26, 0.18, 0.12))
    canvas.rectangle(edge * 0.4, -0.1, edge * 0.4 + 0.014, 1.0, (0.34, 0.25, 0.18))
    canvas.rectangle(0.7, 0.92, 1.1, 0.96, (0.36, 0.23, 0.13))
    for _ in range(6):
        left = float(rng.uniform(0.72, 1.0))
        canvas.rectangle(
            left,
            0.92 - float(rng.uniform(0.05, 0.1)),
            left + 0.05,
            0.92,
            _vary(rng, (0.62, 0.56, 0.45), 0.15),
        )
    for x, y in ((0.76, 0.14), (0.9, 0.23), (0.64, 0.05)):
        at = x + float(rng.uniform(-0.04, 0.04)), y + float(rng.uniform(-0.04, 0.04))
        canvas.rectangle(at[0] - 0.003, -0.1, at[0] + 0.003, at[1], (0.12, 0.09, 0.07))
        canvas.disc(*at, 0.016, (1.0, 0.78, 0.44), 9)
        canvas.glow(*at, 0.09, (1.0, 0.70, 0.36), 0.35)
    canvas.blur(0.024)
    canvas.vignette(0.42)


def foliage(canvas: Canvas) -> None:
    """Leaves in three depths, low sun through the gaps."""
    rng = canvas.rng
    canvas.fill((0.46, 0.53, 0.28), (0.20, 0.27, 0.13))
    canvas.glow(0.08, 0.28, 0.36, (1.0, 0.86, 0.52), 0.75)
    for _ in range(4):
        x, lean = float(rng.uniform(0.3, 1.05)), float(rng.uniform(-0.06, 0.06))
        half = float(rng.uniform(0.012, 0.04))
        trunk = [(x - half, -0.1), (x + half, -0.1), (x + lean + half, 1.4), (x + lean - half, 1.4)]
        canvas.polygon(trunk, _vary(rng, (0.17, 0.15, 0.10), 0.04))
    for count, size, colour in (
        (300, 0.040, (0.40, 0.48, 0.20)), (330, 0.034, (0.25, 0.35, 0.14)), (170, 0.028, (0.15, 0.23, 0.10)),
    ):  # fmt: skip
        for _ in range(count):
            x, y = float(rng.uniform(-0.05, 1.05)), float(rng.uniform(0.0, 1.0)) ** 0.8 * 1.3
            gold = max(0.0, 1 - float(np.hypot(x - 0.1, y - 0.3)) / 0.62)
            tint = _vary(
                rng, (colour[0] + 0.42 * gold, colour[1] + 0.27 * gold, colour[2] + 0.05 * gold), 0.05
            )
            length = size * float(rng.uniform(0.5, 1.3))
            canvas.ellipse(x, y, (length, length * 0.45), float(rng.uniform(0, 180)), tint)
    canvas.blur(0.016)
    _points_of_light(canvas, 46, (-0.02, -0.02, 0.6, 0.75), (1.0, 0.88, 0.54), (3, 12))
    _points_of_light(canvas, 22, (0.5, -0.02, 1.02, 0.6), (0.80, 0.88, 0.52), (2, 6))
    canvas.blur(0.034)
    canvas.glow(0.02, 0.16, 0.3, (1.0, 0.85, 0.55), 0.22)
    canvas.vignette(0.34)


SCENES: Final[dict[str, Scene]] = {
    "corporate": studio,
    "executive": wood_office,
    "creative": painted,
    "tech": glass_office,
    "academic": library,
    "healthcare": clinic,
    "casual": brick_cafe,
    "outdoor": foliage,
}


def scene_of(slug: str) -> Scene:
    """The scene of a built-in style; an administrator's own style is shown before the plain studio paper."""
    return SCENES.get(slug, studio)


def _vary(rng: np.random.Generator, colour: Colour, by: float) -> Colour:
    shared = rng.uniform(-by, by)
    red, green, blue = np.clip(np.array(colour) + shared + rng.uniform(-by, by, 3) * 0.4, 0.01, 1)
    return float(red), float(green), float(blue)


def _points_of_light(
    canvas: Canvas,
    count: int,
    box: tuple[float, float, float, float],
    colour: Colour,
    gains: tuple[float, float],
) -> None:
    """Small lamps or gaps of sky inside (left, top, right, bottom); the blur makes discs of them."""
    rng = canvas.rng
    for _ in range(count):
        x, y = float(rng.uniform(box[0], box[2])), float(rng.uniform(box[1], box[3]))
        canvas.disc(
            x, y, float(rng.uniform(0.003, 0.007)), _vary(rng, colour, 0.06), float(rng.uniform(*gains))
        )
