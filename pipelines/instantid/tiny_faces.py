"""Handmade ONNX files in the places of SCRFD, ArcFace, 1k3d68 and AuraFace, for `make_tiny_bundle`.

insightface's own code loads and runs them as it does the real ones; none of them has learnt anything.

The detector compares the picture, shrunk to its three grids, with the sample portrait's face in six sizes
and both mirrorings (normalised correlation, as in template matching), and reports the best place of each
neighbourhood. It therefore finds the sample portrait's face - mirrored, moved, brighter or darker, from two
thirds of its size in the portrait up to filling the picture - and nothing else: other people's faces, and the
sample's smaller than that or turned by more than ten degrees, are not found.

The two recognisers are seeded random projections of the aligned face, so that the same face gives nearly the
same embedding and another picture another one; they know nothing of identity. The landmarks never move.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import onnx
from insightface.data import get_object
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipelines import sample

Floats = NDArray[np.float32]

OPSET: Final = 17
IR_VERSION: Final = 9
STRIDES: Final = (8, 16, 32)

# The face in pipelines/sample/astronaut.png, 512 pixels wide: box, then eyes, nose, mouth corners.
FACE_BOX: Final = (181.0, 72.0, 269.0, 180.0)
FACE_POINTS: Final = ((203.7, 101.7), (246.7, 103.7), (225.0, 126.7), (205.8, 140.0), (244.0, 141.0))

# Pixels of the sample for one cell of a grid: five steps to the octave, as neighbouring strides are an octave
# apart, and one more for smaller faces (two more found faces where none are). 6.4 is the sample itself, 512
# pixels, in a 640 pixel detection on the grid of stride 8.
CELLS: Final = tuple(6.4 * 2.0 ** (step / 5) for step in range(-2, 4))
KERNEL: Final = 25  # cells; holds the face at the finest of CELLS
MIN_VARIANCE: Final = 2e-3  # of values in -1 .. 1: below it a place is flat and shows nothing
# Correlations that become the scores 0 and 1; insightface's threshold is a score of 0.5, so 0.8. Measured:
# the sample's face 0.95, between two steps of size or of the grid 0.85 or more; any other place of the
# portrait or of a crop of it, and smooth noise, 0.77 or less.
CORRELATIONS: Final = (0.6, 1.0)


class Graph:
    """Collects the nodes of an ONNX graph. Nodes stay unnamed on purpose: insightface reads names that start
    with Sub and Mul as a sign that the graph normalises its input itself."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def save(self, path: Path, inputs: list[Any], outputs: list[Any]) -> None:
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))


def _value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make_detector(path: Path) -> None:
    """Write the detector: SCRFD's nine outputs, scores, boxes and points of strides 8, 16 and 32."""
    graph = Graph()
    kernels, geometry = _templates()
    shared = {
        "kernels": graph.constant(kernels),
        "mask": graph.constant(_mean_kernel(kernels)),
        "geometry": graph.constant(geometry[:, :, None, None]),
        "variance": graph.constant(MIN_VARIANCE),
        "low": graph.constant(CORRELATIONS[0]),
        "range": graph.constant(CORRELATIONS[1] - CORRELATIONS[0]),
        "zero": graph.constant(0.0),
        "one": graph.constant(1.0),
        "slope": graph.constant(_offsets((-0.5, 0.0, 0.5))),
        "bend": graph.constant(_offsets((1.0, -2.0, 1.0))),
        "half": graph.constant(0.5),
        "minus_half": graph.constant(-0.5),
        "tiny": graph.constant(-1e-6),
        "spread": graph.constant(_spread()[:, :, None, None]),
    }
    for stride in STRIDES:
        _detector_level(graph, stride, shared)
    outputs = [
        _value(f"{what}_{stride}", [f"cells_{stride}", width])
        for what, width in (("score", 1), ("box", 4), ("points", 10))
        for stride in STRIDES
    ]
    graph.save(path, [_value("input", [1, 3, "height", "width"])], outputs)


def _detector_level(graph: Graph, stride: int, shared: dict[str, str]) -> None:
    add = graph.add
    grid = add("AveragePool", "input", kernel_shape=[stride, stride], strides=[stride, stride])
    pads = [KERNEL // 2] * 4
    mean = add("Conv", grid, shared["mask"], pads=pads)
    square = add("Conv", add("Mul", grid, grid), shared["mask"], pads=pads)
    variance = add("Max", add("Sub", square, add("Mul", mean, mean)), shared["variance"])
    products = add("Conv", grid, shared["kernels"], pads=pads)
    correlation = add("Div", products, add("Sqrt", variance))  # (1, templates, rows, columns)
    best = add("ReduceMax", correlation, axes=[1], keepdims=1)
    scaled = add("Div", add("Sub", best, shared["low"]), shared["range"])
    score = add("Min", add("Max", scaled, shared["zero"]), shared["one"])
    highest = add("MaxPool", best, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
    peak = add("Cast", add("Equal", best, highest), to=TensorProto.FLOAT)
    score = add("Mul", score, peak)
    # Which template won, one-hot, picks its box and points; the parabola through the neighbours, the place
    # within the cell.
    winner = add("Cast", add("Equal", correlation, best), to=TensorProto.FLOAT)
    geometry = add("Conv", winner, shared["geometry"])
    bend = add("Min", add("Conv", best, shared["bend"], pads=[1, 1, 1, 1]), shared["tiny"])
    slope = add("Conv", best, shared["slope"], pads=[1, 1, 1, 1])
    shift = add("Div", add("Neg", slope), bend)
    shift = add("Min", add("Max", shift, shared["minus_half"]), shared["half"])
    geometry = add("Add", geometry, add("Conv", shift, shared["spread"]))
    _rows(graph, add("Concat", score, add("Mul", score, shared["zero"]), axis=1), f"score_{stride}", 1)
    axis = graph.constant([1], np.int64)
    for what, start, end in (("box", 0, 4), ("points", 4, 14)):
        bounds = [graph.constant([bound], np.int64) for bound in (start, end)]
        part = add("Slice", geometry, *bounds, axis)
        _rows(graph, add("Concat", part, part, axis=1), f"{what}_{stride}", end - start)


def _rows(graph: Graph, maps: str, output: str, width: int) -> None:
    """(1, 2 * width, rows, columns) as (rows * columns * 2, width): the two anchors of a cell adjacent."""
    last = graph.add("Transpose", maps, perm=[0, 2, 3, 1])
    graph.add("Reshape", last, graph.constant([-1, width], np.int64), output=output)


def _offsets(taps: tuple[float, float, float]) -> Floats:
    """(2, 1, 3, 3): `taps` across, and down."""
    kernels = np.zeros((2, 1, 3, 3), np.float32)
    kernels[0, 0, 1, :] = taps
    kernels[1, 0, :, 1] = taps
    return kernels


def _spread() -> Floats:
    """(14, 2): how a shift of the face by (x, y) cells changes left, top, right, bottom and the points."""
    rows = [(-1, 0), (0, -1), (1, 0), (0, 1)] + [(1, 0), (0, 1)] * 5
    return np.asarray(rows, np.float32)


def _templates() -> tuple[Floats, Floats]:
    """Kernels (templates, 3, KERNEL, KERNEL) of zero mean, scaled so that their product with a place, over
    the place's standard deviation, is the correlation; and (14, templates) box and points in cells."""
    with files(sample).joinpath("astronaut.png").open("rb") as file:
        encoded = np.frombuffer(file.read(), np.uint8)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    portrait = decoded[..., ::-1].astype(np.float32) / 127.5 - 1
    kernels, geometry = [], []
    for is_mirrored in (False, True):
        for cell in CELLS:
            patch, mask = _patch(portrait, cell), _mask(cell)
            if is_mirrored:
                patch, mask = patch[:, ::-1], mask[:, ::-1]
            inside = np.broadcast_to(mask[..., None], patch.shape)
            patch = np.where(inside, patch - patch[inside].mean(), 0)
            count = int(inside.sum())
            patch = patch / np.sqrt(float((patch**2).sum()) * count)
            kernels.append(patch.transpose(2, 0, 1))
            geometry.append(_geometry(cell, is_mirrored=is_mirrored))
    return np.stack(kernels).astype(np.float32), np.stack(geometry, axis=1)


def _centre() -> tuple[float, float]:
    left, top, right, bottom = FACE_BOX
    return (left + right) / 2, (top + bottom) / 2


def _patch(portrait: Floats, cell: float) -> Floats:
    """(KERNEL, KERNEL, 3): the face averaged over cells, its centre in the middle of the middle cell."""
    x, y = _centre()
    fine = 8  # samples across a cell
    size = KERNEL * fine
    step = cell / fine
    start = (x - cell * KERNEL / 2 + step / 2, y - cell * KERNEL / 2 + step / 2)
    matrix = np.array([[step, 0, start[0] - 0.5], [0, step, start[1] - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    samples = cv2.warpAffine(portrait, matrix, (size, size), flags=flags)
    averaged = samples.reshape(KERNEL, fine, KERNEL, fine, 3).mean(axis=(1, 3))
    return np.asarray(averaged, np.float32)


def _mask(cell: float) -> NDArray[np.bool_]:
    """(KERNEL, KERNEL): the ellipse of the face's box."""
    left, top, right, bottom = FACE_BOX
    across = (np.arange(KERNEL) - KERNEL // 2) * cell
    inside = (across[None] / ((right - left) / 2)) ** 2 + (across[:, None] / ((bottom - top) / 2)) ** 2 <= 1
    return np.asarray(inside)


def _mean_kernel(kernels: Floats) -> Floats:
    """(templates, 3, KERNEL, KERNEL): the mean over the place that each template covers."""
    covered = (np.abs(kernels).sum(axis=1, keepdims=True) > 0).astype(np.float32)
    share = covered / (3 * covered.sum(axis=(1, 2, 3), keepdims=True))
    return np.asarray(np.repeat(share, 3, axis=1), np.float32)


def _geometry(cell: float, *, is_mirrored: bool) -> Floats:
    """(14,): distances to the box's left, top, right, bottom and offsets of the points, in cells.

    SCRFD counts from the cell's top left corner, the correlation from its middle.
    """
    x, y = _centre()
    points = np.asarray(FACE_POINTS) - (x, y)
    if is_mirrored:
        points = points[[1, 0, 2, 4, 3]] * (-1, 1)
    points = points / cell + 0.5
    left, top, right, bottom = FACE_BOX
    half = np.asarray([(right - left) / 2, (bottom - top) / 2]) / cell
    box = [half[0] - 0.5, half[1] - 0.5, half[0] + 0.5, half[1] + 0.5]
    return np.concatenate([box, points.ravel()]).astype(np.float32)


def make_recogniser(path: Path, *, seed: int, pool: int) -> None:
    """Write a recogniser: 112 x 112 aligned face in, 512 numbers out, of about the length ArcFace gives.

    The face is averaged over `pool` pixels, freed of its mean and projected by a seeded random matrix.
    """
    graph = Graph()
    side = 112 // pool
    count = side * side * 3
    matrix = np.random.default_rng(seed).standard_normal((count, 512)) * (2 / np.sqrt(count))
    pooled = graph.add("AveragePool", "input", kernel_shape=[pool, pool], strides=[pool, pool])
    flat = graph.add("Flatten", pooled)
    centred = graph.add("Sub", flat, graph.add("ReduceMean", flat, axes=[1], keepdims=1))
    graph.add("MatMul", centred, graph.constant(matrix), output="embedding")
    graph.save(path, [_value("input", ["batch", 3, 112, 112])], [_value("embedding", ["batch", 512])])


def make_landmarks(path: Path) -> None:
    """Write the 68 landmarks in space, 1k3d68's place: always insightface's own mean head, held straight."""
    graph = Graph()
    mean = np.asarray(get_object("meanshape_68.pkl"), np.float32)
    head = (mean - mean.mean(axis=0)) / (1.5 * np.abs(mean - mean.mean(axis=0)).max())
    values = np.zeros((1, 3309), np.float32)  # 1103 points, of which insightface takes the last 68
    values[0, -68 * 3 :] = head.ravel()
    nothing = graph.add("Mul", graph.add("GlobalAveragePool", "input"), graph.constant(0.0))
    one = graph.add("ReduceSum", nothing, graph.constant([1, 2, 3], np.int64), keepdims=0)
    column = graph.add("Reshape", one, graph.constant([-1, 1], np.int64))
    graph.add("Add", column, graph.constant(values), output="landmarks")
    graph.save(path, [_value("input", ["batch", 3, 192, 192])], [_value("landmarks", ["batch", 3309])])
