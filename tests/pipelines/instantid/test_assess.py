"""How far a head may be turned before a selfie is refused, on handmade landmarks."""

import math
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from headshots.exceptions import TEXTS
from pipelines.engine import load_assessor
from pipelines.errors import Final, Refused
from pipelines.instantid import faces
from pipelines.instantid.assess import load
from pipelines.types import EngineConfig, Pixels

pytestmark = pytest.mark.slow

LANDMARKS = "faces/1k3d68.onnx"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "weights", copy_function=os.link))


def turn(folder: Path, *, pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> None:
    """Let the landmarks be those of a head turned by so many degrees, of the same size in the bundle."""
    model = onnx.load(folder / LANDMARKS)
    for initializer in model.graph.initializer:
        values = numpy_helper.to_array(initializer).copy()
        if values.shape == (1, 3309):
            head = values[0, -68 * 3 :].reshape(68, 3)
            values[0, -68 * 3 :] = (head @ rotation(pitch, yaw, roll).T).ravel()
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    (folder / LANDMARKS).unlink()
    (folder / LANDMARKS).write_bytes(model.SerializeToString(deterministic=True))


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    x, y, z = map(math.radians, (pitch, yaw, roll))
    about_x = [[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]]
    about_y = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    about_z = [[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_y) @ np.array(about_x)


@pytest.mark.parametrize(("pitch", "yaw"), [(0, 0), (20, 0), (-20, 0), (0, 34), (0, -34), (12, -25)])
def test_the_pose_is_measured_in_degrees(folder: Path, selfie: Pixels, pitch: float, yaw: float) -> None:
    turn(folder, pitch=pitch, yaw=yaw)
    analysis = faces.load_analysis(folder / "faces", "cpu", measures_pose=True)

    pose = faces.head_pose(analysis, selfie, faces.the_one_face(analysis, selfie))

    assert (abs(pose.pitch), abs(pose.yaw)) == pytest.approx((abs(pitch), abs(yaw)), abs=0.5)


@pytest.mark.parametrize(
    ("pitch", "yaw", "roll"), [(0, 34, 0), (0, -34, 0), (29, 0, 0), (-29, 0, 0), (20, 25, 0), (0, 0, 45)]
)
def test_a_head_turned_a_little_is_taken(
    folder: Path, selfie: Pixels, pitch: float, yaw: float, roll: float
) -> None:
    straight = load(folder)(selfie)
    turn(folder, pitch=pitch, yaw=yaw, roll=roll)

    assert load(folder)(selfie) == straight


@pytest.mark.parametrize(("pitch", "yaw"), [(0, 36), (0, -36), (31, 0), (-31, 0), (0, 80)])
def test_a_head_turned_away_is_refused_with_its_own_code_and_advice(
    folder: Path, selfie: Pixels, pitch: float, yaw: float
) -> None:
    turn(folder, pitch=pitch, yaw=yaw)
    assess = load_assessor(EngineConfig(kind="instantid", weights_dir=folder))

    with pytest.raises(Refused) as refused:
        assess(selfie)

    assert refused.value.code == "face_turned"
    assert TEXTS["face_turned"].message == "Your face is turned away in this photo."
    assert TEXTS["face_turned"].advice == "Look straight into the camera, held at the height of your eyes."


def test_a_folder_without_landmarks_measures_no_pose(folder: Path) -> None:
    (folder / LANDMARKS).unlink()

    with pytest.raises(Final, match="holds no landmarks") as refused:
        faces.load_analysis(folder / "faces", "cpu", measures_pose=True)

    assert refused.value.code == "weights_missing"
