"""Styles stored before they had the newer numbers: the migration keeps them and fills in the defaults."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from pytest_django import DjangoDbBlocker


@pytest.fixture
def old_database(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[BaseDatabaseWrapper]:
    """A database as the first release left it: its own SQLite file, migrated to 0001."""
    connections.databases["old"] = {
        **connections.databases["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "old.sqlite3"),
        "OPTIONS": {},
    }
    with django_db_blocker.unblock():
        MigrationExecutor(connections["old"]).migrate([("headshots", "0001_initial")])
        yield connections["old"]
        connections["old"].close()
    del connections["old"], connections.databases["old"]


def new_columns(old: BaseDatabaseWrapper) -> list[tuple[Any, ...]]:
    """What migration 0002 makes of the style versions in `old`."""
    target = [("headshots", "0002_style_numbers")]
    executor = MigrationExecutor(old)
    executor.migrate(target)
    versions = executor.loader.project_state(target).apps.get_model("headshots", "StyleVersion")
    columns = ("negative_identity", "control_guidance_end", "is_face_masked", "loras", "extra_control")
    return list(versions.objects.using("old").order_by("number").values_list("guidance_scale", *columns))


def test_the_new_columns_come_to_an_empty_database(old_database: BaseDatabaseWrapper) -> None:
    assert new_columns(old_database) == []


def test_versions_made_before_the_new_numbers_get_their_defaults(
    old_database: BaseDatabaseWrapper, now: datetime
) -> None:
    loader = MigrationExecutor(old_database).loader
    apps = loader.project_state([("headshots", "0001_initial")]).apps
    style = (
        apps.get_model("headshots", "Style").objects.using("old").create(slug="tech", name="T", summary="T")
    )
    for number, (author, guidance_scale) in enumerate((("built-in", 9.0), ("anna", 12.0)), start=1):
        apps.get_model("headshots", "StyleVersion").objects.using("old").create(
            style=style,
            number=number,
            created_at=now,
            created_by=author,
            num_inference_steps=30,
            guidance_scale=guidance_scale,
            scheduler="euler",
            ip_adapter_scale=0.8,
            controlnet_conditioning_scale=0.8,
            guidance_method="plain",
            framing="chest",
        )

    assert new_columns(old_database) == [
        (9.0, "noise", 0.9, True, [], None),
        (12.0, "noise", 0.9, True, [], None),
    ]
    with old_database.cursor() as cursor, pytest.raises(DatabaseError, match="control_guidance_end_within"):
        cursor.execute("UPDATE headshots_styleversion SET control_guidance_end = 0.4")
