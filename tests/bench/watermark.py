"""python -m tests.bench.watermark: what the invisible mark costs, what it survives, what it never mistakes.

The pictures are those of the preview engine: its eight styles with several seeds as the free tier delivers
them, visible mark included, and each style once in 4K. Each is rendered without the invisible mark, marked,
encoded as `finish` does it, and changed in the ways of `CHANGES`; JPEGs of these are 4:2:0, as most programs
write them. Crops lie anywhere.

Unmarked are the same pictures before they were marked, and crops of the photographs that scikit-image ships,
changed in the same ways. The bound beside the count of pictures taken for marked ones is the upper end of a
one-sided 95 % confidence interval; `expected_bound` is what the decision rule allows if bits fall like coins.

Seconds are medians of one core. The JSON is kept beside this file.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import cv2
import numpy as np

from pipelines import finish as finishing
from pipelines import images, watermark
from pipelines.engine import load_engine
from pipelines.provenance import SourceType
from pipelines.sample import sample_selfie
from pipelines.styles import BUILTIN
from pipelines.types import EngineConfig, FinishedShot, OutputSpec, Pixels, ShotRequest
from pipelines.watermark import Reading
from tests.bench.installation import machine

FREE: Final = OutputSpec(long_edge=1152, is_watermarked=True)
PREMIUM: Final = OutputSpec(long_edge=3840, is_watermarked=False)
SEEDS: Final = (1, 2, 3)
UNMARKED: Final = 96
PHOTOGRAPHS: Final = (
    "astronaut",
    "chelsea",
    "coffee",
    "motorcycle_left",
    "color",
    "rocket",
    "hubble_deep_field",
)
TURNS: Final = 5

Change = Callable[[Pixels, np.random.Generator], Pixels]


def recompressed(quality: int) -> Change:
    """A JPEG of that quality, 4:2:0."""

    def change(picture: Pixels, _: np.random.Generator) -> Pixels:
        encoded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
        return decoded(encoded.tobytes())

    return change


def resized(long_edge: int | None = None) -> Change:
    """The long edge this long; halved without one."""

    def change(picture: Pixels, _: np.random.Generator) -> Pixels:
        height, width = picture.shape[:2]
        scale = long_edge / max(height, width) if long_edge else 0.5
        size = (round(width * scale), round(height * scale))
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return change


def cropped(share: float) -> Change:
    """This share of width and height, from anywhere."""

    def change(picture: Pixels, chance: np.random.Generator) -> Pixels:
        height, width = (round(side * share) for side in picture.shape[:2])
        top = int(chance.integers(picture.shape[0] - height + 1))
        left = int(chance.integers(picture.shape[1] - width + 1))
        return np.ascontiguousarray(picture[top : top + height, left : left + width])

    return change


def brighter(picture: Pixels, _: np.random.Generator) -> Pixels:
    """All channels 1.1 times as bright."""
    return np.asarray(cv2.convertScaleAbs(picture, alpha=1.1), dtype=np.uint8)


# What is done to a picture, one after the other.
CHANGES: Final[dict[str, tuple[Change, ...]]] = {
    "nothing": (),
    "jpeg_70": (recompressed(70),),
    "jpeg_50": (recompressed(50),),
    "half_size": (resized(),),
    "to_1024_px": (resized(1024),),
    "to_512_px": (resized(512),),
    "to_512_px_and_jpeg_70": (resized(512), recompressed(70)),
    "brighter_by_a_tenth": (brighter,),
    "crop_90": (cropped(0.9),),
    "crop_75": (cropped(0.75),),
    "crop_50": (cropped(0.5),),
    "crop_75_to_600_px_and_jpeg_70": (cropped(0.75), resized(600), recompressed(70)),
}


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two styles and a few photographs; nothing is kept"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    seeds, styles, unmarked = ((1,), 2, 8) if options.quick else (SEEDS, len(BUILTIN), UNMARKED)
    free = rendered(FREE, seeds, styles)
    premium = rendered(PREMIUM, (1,), styles)
    libraries = ("wmforge", "PyWavelets", "numpy", "opencv-python-headless")
    result = {
        **machine(),
        "libraries": {name: version(name) for name in libraries},
        "required_bits": {"whole": watermark.REQUIRED_BITS, "part": watermark.REQUIRED_BITS_OF_A_PART},
        "cost": {"free": cost(free[0], FREE), "premium": cost(premium[0], PREMIUM)},
        "quality": {"free": quality(free), "premium": quality(premium)},
    }
    with ProcessPoolExecutor(options.processes, initializer=_alone) as pool:
        result["survival"] = {
            "free": survival(free, pool.map(read_after_changes, numbered(free))),
            "premium": survival(premium, pool.map(read_after_changes, numbered(premium))),
        }
        result["unmarked"] = mistakes(pool.map(_read, without_mark([*free, *premium], unmarked)))
    text = json.dumps(result, indent=1)
    if not options.quick:
        (Path(__file__).parent / "results" / "watermark.json").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def rendered(output: OutputSpec, seeds: Sequence[int], styles: int) -> list[Pixels]:
    """What the preview engine delivers, decoded (BGR), as it is without the invisible mark."""
    portrait = images.decode_jpeg(images.clean_portrait(sample_selfie()))
    requests = [
        ShotRequest(
            shot_id=f"{style.preset.slug}-{seed}",
            identity="one",
            portrait=portrait,
            preset=style.preset,
            seeds=(seed,),
            output=output,
        )
        for seed in seeds
        for style in BUILTIN[:styles]
    ]
    done: list[Any] = []
    waiting = iter([request] for request in requests)
    with patch.object(finishing, "embed", lambda picture: picture):
        load_engine(EngineConfig(kind="preview")).run(
            lambda _: next(waiting, []), done.append, lambda _: False
        )
    assert [type(shot) for shot in done] == [FinishedShot] * len(requests)
    return [decoded(shot.jpeg) for shot in done]


def decoded(jpeg: bytes) -> Pixels:
    """Its pixels, BGR."""
    return np.asarray(cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)


def delivered(picture: Pixels) -> Pixels:
    """The picture marked, and encoded and decoded as finished pictures are."""
    how = (*finishing._FULL_CHROMA, cv2.IMWRITE_JPEG_QUALITY, finishing.QUALITY)
    return decoded(cv2.imencode(".jpg", watermark.embed(picture.copy()), how)[1].tobytes())


def cost(picture: Pixels, output: OutputSpec) -> dict[str, float]:
    """Seconds to mark the picture, to find the mark, to find none; and of what finishing takes as a whole."""
    marked = watermark.embed(picture.copy())
    rgb = np.ascontiguousarray(picture[..., ::-1])

    def finish() -> None:
        finishing.finish(rgb, output=output, marks=(), source_type=SourceType.COMPOSITE)

    embedding = seconds(lambda: watermark.embed(marked))
    return {
        "embed_seconds": embedding,
        "share_of_finishing": round(embedding / seconds(finish), 2),
        "read_seconds": seconds(lambda: watermark.read(marked)),
        "search_in_vain_seconds": seconds(lambda: watermark.read(picture), turns=1),
    }


def seconds(call: Callable[[], object], turns: int = TURNS) -> float:
    """The median of processor seconds."""
    call()
    taken = []
    for _ in range(turns):
        started = time.process_time()
        call()
        taken.append(time.process_time() - started)
    return round(statistics.median(taken), 3)


def quality(pictures: Sequence[Pixels]) -> dict[str, float]:
    """How far marked pictures are from the same ones without."""
    changes = [watermark.embed(picture.copy()).astype(np.int16) - picture for picture in pictures]
    ratios = [10 * np.log10(255**2 / np.square(change, dtype=np.float64).mean()) for change in changes]
    return {
        "pictures": len(pictures),
        "psnr_least": round(min(ratios), 1),
        "psnr_mean": round(statistics.mean(ratios), 1),
        "largest_change": max(int(np.abs(change).max()) for change in changes),
    }


def numbered(pictures: Iterable[Pixels]) -> list[tuple[int, Pixels]]:
    return list(enumerate(pictures))


def read_after_changes(task: tuple[int, Pixels]) -> dict[str, Reading]:
    """What is read from the marked picture after each change."""
    number, picture = task
    marked = delivered(picture)
    readings = {}
    for name, steps in CHANGES.items():
        chance = np.random.default_rng((number, len(name)))
        readings[name] = watermark.read(changed(marked, steps, chance))
    return readings


def changed(picture: Pixels, steps: Iterable[Change], chance: np.random.Generator) -> Pixels:
    for step in steps:
        picture = step(picture, chance)
    return picture


def survival(pictures: Sequence[Pixels], readings: Iterable[dict[str, Reading]]) -> dict[str, Any]:
    """For each change the share of pictures whose mark was read, and the fewest bits that agreed."""
    of_each = list(readings)
    assert len(of_each) == len(pictures)
    return {
        name: {
            "read": round(statistics.mean(reading[name].is_marked for reading in of_each), 3),
            "fewest_bits": min(reading[name].bits for reading in of_each),
        }
        for name in CHANGES
    }


def without_mark(pictures: Sequence[Pixels], count: int) -> Iterable[Pixels]:
    """The pictures as they are, then changed crops of photographs, so many in all."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    paths = [path for name in PHOTOGRAPHS for path in folder.glob(f"{name}.*")]
    photographs = [np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), dtype=np.uint8) for path in paths]
    assert len(photographs) == len(PHOTOGRAPHS)
    changes = list(CHANGES.values())
    yield from pictures[:count]
    for number in range(count - len(pictures)):
        chance = np.random.default_rng(number)
        share = chance.uniform(0.4, 1)
        photograph = photographs[number % len(photographs)]
        yield changed(photograph, (cropped(share), *changes[number % len(changes)]), chance)


def _read(picture: Pixels) -> tuple[Reading, Reading]:
    """From a picture without a mark: what taking it for a whole says, and what the search says."""
    return watermark.read_whole(picture), watermark.read_part(picture)


def mistakes(readings: Iterable[tuple[Reading, Reading]]) -> dict[str, Any]:
    """How many unmarked pictures were taken for marked ones, and how close the others came."""
    found = list(readings)
    count, mistaken = len(found), sum(any(reading.is_marked for reading in each) for each in found)
    histograms = [Counter(each[kind].bits for each in found) for kind in (0, 1)]
    return {
        "pictures": count,
        "taken_for_marked": mistaken,
        "bound_95": round(1 - 0.05 ** (1 / count), 4) if mistaken == 0 else None,
        "expected_bound": watermark.chance_of_mistake(),
        "most_bits": {"whole": max(histograms[0]), "part": max(histograms[1])},
        "bits": {
            name: {str(bits): histogram[bits] for bits in sorted(histogram)}
            for name, histogram in zip(("whole", "part"), histograms, strict=True)
        },
    }


def _alone() -> None:
    cv2.setNumThreads(1)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
