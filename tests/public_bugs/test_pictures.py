"""The pictures and the person: made again from their record, silent about both, taken as phones send them."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from django.apps import apps
from django.test import Client
from django.utils import timezone
from PIL import Image

from headshots import tasks
from headshots.models import Order, Shot
from headshots.services import claiming, delivery, objects, orders, shots, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from pipelines.images import decode_jpeg
from pipelines.preview import PreviewEngine
from pipelines.types import FailedShot, OutputSpec, ShotRequest
from tests.api.conftest import plain_picture
from tests.pipelines.test_images import heic, saved
from tests.services.credentials.reading import segments

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

TRAIT = re.compile(
    r"(?<![a-z])(ages?|birth(day|date|year)|born|ethnic(ity|ities)?|race|racial|gender|sex|body|bmi|weight|hair|"
    r"beard|eyes?|glasses|skin|complexion|religion|nationality|origin|pronouns?|traits?|appearance|disability|"
    r"health|attractiveness|beauty|caption|description)(?![a-z])"
)


def test_one_picture_that_is_refused_does_not_fail_the_others(placed: Placed, now: datetime) -> None:
    orders.accept(placed.order, now)
    bad, *good = claiming.claim("worker", 3, now)

    shots.fail(bad, FailedShot(shot_id=str(bad.shot.pk), code="unsafe", is_retryable=False), now)
    assert all(shots.commit(each, plain_picture(each), now) for each in good)

    order = Order.objects.get()
    assert order.state == OrderState.READY
    archive = b"".join(delivery.stream_archive(order, now))
    names = zipfile.ZipFile(io.BytesIO(archive)).namelist()
    assert sum(name.endswith(".jpg") for name in names) == 2


@pytest.fixture
def rendered(as_sent: None, placed: Placed, now: datetime) -> Shot:
    """The one picture of an order, by the preview engine."""
    placed.order.shots.filter(index__gt=1).delete()
    Order.objects.update(headshots=1)
    orders.accept(placed.order, now)
    tasks.render()
    return Shot.objects.select_related("order", "style_version", "headshot__order").get(state=ShotState.DONE)


def test_a_picture_can_be_made_again_from_its_recorded_seed(rendered: Shot, now: datetime) -> None:
    again: list[Any] = []
    request = ShotRequest(
        shot_id="again",
        identity="again",
        portrait=decode_jpeg(uploads.open_selfie(rendered.order, now)),
        preset=rendered.style_version.preset(),
        seeds=(rendered.seed,),
        output=OutputSpec(long_edge=rendered.order.long_edge, is_watermarked=True),
    )
    waiting = [request]

    PreviewEngine().run(lambda free: [waiting.pop()] if waiting else [], again.append, lambda _: False)

    assert rendered.headshot is not None
    stored = segments(objects.read(rendered.headshot, now))
    unsigned = [segment for segment in stored if segment[0] != 0xEB]
    assert unsigned == segments(again[0].jpeg)


def test_seeds_are_of_63_bits_recorded_and_never_the_same(
    placed: Placed, place: Callable[..., Placed]
) -> None:
    place(tier_slug="premium")

    seeds = list(Shot.objects.values_list("seed", flat=True))

    assert len(set(seeds)) == len(seeds) >= 53
    assert 2**56 < max(seeds) < 2**63  # fifty draws below 2**56 have a chance of 2**-350


def test_no_prompt_and_no_setting_is_written_into_a_picture(rendered: Shot, now: datetime) -> None:
    preset = rendered.style_version.preset()
    assert rendered.headshot is not None
    jpeg = objects.read(rendered.headshot, now)

    beside_pixels = b"".join(body for marker, body in segments(jpeg) if marker != 0xDA).lower()
    words = {part.strip() for part in f"{preset.prompt},{preset.negative_prompt}".lower().split(",")}
    settings_of_it = {"guidance", "seed", "steps", "scheduler", "prompt", "corporate", str(rendered.seed)}
    assert len(words) > 10
    assert [word for word in words | settings_of_it if word and word.encode() in beside_pixels] == []


def names_about_a_person(client: Client) -> Iterator[str]:
    """Every column, every field of the API, every input of the form, and what the engine is told."""
    for model in apps.get_app_config("headshots").get_models():
        yield from (f"{model.__name__}.{field.name}" for field in model._meta.get_fields())
    schema = client.get("/api/v1/openapi.json").json()
    for name, shape in schema["components"]["schemas"].items():
        yield from (f"{name}.{field}" for field in shape.get("properties", ()))
    for path in schema["paths"].values():
        for operation in path.values():
            yield from (each["name"] for each in operation.get("parameters", ()))
            for content in operation.get("requestBody", {}).get("content", {}).values():
                yield from content["schema"].get("properties", ())
    form = client.get("/new").content.decode()
    yield from (
        f"/new.{name}" for name in re.findall(r'<(?:input|select|textarea)[^>]* name="([^"]+)"', form)
    )
    yield from (f"ShotRequest.{each.name}" for each in fields(ShotRequest))


def test_no_trait_of_a_person_is_asked_for_kept_or_sent(client: Client, built_in: None) -> None:
    names = set(names_about_a_person(client))

    assert {"Order.tier", "OrderOut.state", "selfie", "/new.consent", "ShotRequest.portrait"} <= names
    assert [name for name in names if TRAIT.search(name.lower())] == []


def test_a_photo_of_an_iphone_is_taken_as_it_is(post_order: Callable[..., Any], selfie: bytes) -> None:
    with Image.open(io.BytesIO(selfie)) as photo:
        answer = post_order(heic(photo.convert("RGB")))

    assert answer.status_code == 201
    assert decode_jpeg(uploads.open_selfie(Order.objects.get(), timezone.now())).shape[2] == 3


def test_a_photo_that_a_phone_held_sideways_is_put_upright(
    post_order: Callable[..., Any], selfie: bytes
) -> None:
    with Image.open(io.BytesIO(selfie)) as photo:
        upright = photo.convert("RGB").crop((0, 0, photo.width, photo.height * 3 // 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    lying = upright.transpose(Image.Transpose.ROTATE_90)

    assert post_order(saved(lying, "JPEG", exif=exif, quality=95)).status_code == 201

    kept = decode_jpeg(uploads.open_selfie(Order.objects.get(), timezone.now()))
    assert kept.shape == (upright.height, upright.width, 3)
    assert np.abs(kept.astype(int) - np.asarray(upright)).mean() < 8
