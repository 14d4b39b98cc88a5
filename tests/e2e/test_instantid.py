"""The whole service on the InstantID engine with random weights: upload, pictures, 4K, deletion, receipt."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from pytest_django import Settings

from headshots import tasks
from headshots.env import ROOT
from headshots.models import Order, Receipt, Shot
from headshots.services import delivery, payments, purge
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.tiers import TIERS
from pipelines.sample import sample_selfie

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")]


def manage(*arguments: str, **environment: str) -> str:
    """What a management command prints."""
    finished = subprocess.run(
        [sys.executable, ROOT / "manage.py", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    manage("weights", "tiny", str(folder))
    return folder


@pytest.fixture
def instantid(weights: Path, settings: Settings) -> Iterator[None]:
    """The tasks of this process on the InstantID engine."""
    settings.ENGINE, settings.WEIGHTS, settings.DEVICE, settings.SLOTS = "instantid", weights, "cpu", 4
    settings.WEIGHTS_LICENCES = dict.fromkeys(("antelopev2", "instantid"), "random weights of our own")
    for cached in (tasks._engine, tasks._assessor):
        cached.cache_clear()
    yield
    for cached in (tasks._engine, tasks._assessor):
        cached.cache_clear()


def test_a_free_order_goes_from_upload_to_receipt_in_real_processes(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    printed = manage(
        "demo",
        "--json",
        "--out",
        str(tmp_path / "out"),
        HEADSHOTS_DATA=str(tmp_path / "data"),
        ENGINE="instantid",
        WEIGHTS=str(weights),
        DEVICE="cpu",
    )
    events = [json.loads(line) for line in printed.splitlines()]
    saved = [event for event in events if event["event"] == "saved"]
    assert [(event["width"], event["height"]) for event in saved] == [(896, 1152)] * 3
    assert [event["event"] for event in events[-3:]] == ["deleted", "gone", "receipt"]
    assert events[-1]["objects_left"] == 0
    pictures = sorted((tmp_path / "out").glob("headshot-*.jpg"))
    assert len({path.read_bytes() for path in pictures}) == 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("instantid")
def test_a_premium_order_is_delivered_in_4k_in_every_style_and_leaves_nothing(
    place: Callable[..., Placed],
    render_all: Callable[[], None],
    purge_all: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pack of eight, one for each style: fifty would show the same and take six times as long."""
    monkeypatch.setitem(TIERS, "premium", replace(TIERS["premium"], headshots=8, spares=0))
    order = place(tier_slug="premium").order
    payments.confirm_test_payment(order, order.created_at)
    render_all()

    order.refresh_from_db()
    assert (order.state, order.engine) == (OrderState.READY, "instantid")
    assert set(Shot.objects.values_list("width", "height", "state")) == {(2987, 3840, "done")}
    styles = Counter(Shot.objects.values_list("style_version__style__slug", flat=True))
    assert len(styles) == 8
    archive = zipfile.ZipFile(io.BytesIO(b"".join(delivery.stream_archive(order, order.created_at))))
    pictures = [name for name in archive.namelist() if name.endswith(".jpg")]
    sizes = {Image.open(io.BytesIO(archive.read(name))).size for name in pictures}
    assert (len(pictures), sizes) == (8, {(2987, 3840)})

    purge.request(order, actor="customer", now=order.created_at)
    purge_all()
    assert purge.objects_left() == 0
    assert "headshots=8 previews=8" in Receipt.objects.get().text
    assert Order.objects.get().state == OrderState.PURGED


def test_render_makes_a_picture_that_its_own_figures_repeat(weights: Path, tmp_path: Path) -> None:
    selfie = tmp_path / "selfie.jpg"
    selfie.write_bytes(sample_selfie())
    common = ("render", str(selfie), "--engine", "instantid", "--weights", str(weights), "--device", "cpu")
    numbers = ("--guidance", "9.5", "--steps", "20", "--scheduler", "euler_a", "--method", "interval")
    free = ("--tier", "free", "--count", "1", "--raw", "--json")

    first = json.loads(manage(*common, *numbers, *free, "--seed", "41", "--out", str(tmp_path / "a")))
    preset = first["preset"]
    assert (preset["guidance_scale"], preset["num_inference_steps"], preset["scheduler"]) == (
        9.5,
        20,
        "euler_a",
    )
    assert first["engine"] == "instantid"
    assert {"device", "dtype", "weights", "torch", "diffusers"} <= first["runs_on"].keys()
    assert Image.open(tmp_path / "a" / "corporate-41.raw.png").size == (896, 1152)

    repeat = ("--seed", str(first["seed"]), "--out", str(tmp_path / "b"))
    again = json.loads(manage(*common, *numbers, *free, *repeat))
    assert Path(first["file"]).read_bytes() == Path(again["file"]).read_bytes()
    assert first["measures"] == again["measures"]
