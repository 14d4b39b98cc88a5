"""Start-up: what the service refuses to run on, and that every setting is in the README."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytest_django import Settings

from headshots.checks import (
    data_folder_is_private,
    reports_of_errors_take_no_photo_along,
    uploads_stay_in_memory,
)
from headshots.env import ROOT, Environment


def start(data: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`manage.py check` in a process of its own."""
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", "check"],
        env={**os.environ, "HEADSHOTS_DATA": str(data), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_embedded_mode_starts_without_any_setting(tmp_path: Path) -> None:
    assert start(tmp_path / "data").returncode == 0
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_production_names_every_embedded_default_that_is_left(tmp_path: Path) -> None:
    refused = start(tmp_path / "data", HEADSHOTS_ENV="production", SECRET_KEY="x" * 60)

    assert refused.returncode != 0
    assert (
        "these still hold an embedded default: DATABASE_URL, BROKER_URL, ROOT_KEYS, RECEIPT_KEY, "
        "PICTURE_KEY, PICTURE_CERTIFICATE, ENGINE, PAYMENTS, MAIL_SERVER, MAIL_FROM, SITE_URL, ALLOWED_HOSTS"
        in refused.stderr
    )


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    refused = start(tmp_path / "data", PORT="many", ENGINE="magic", LEASE_SECONDS="-1")

    assert refused.returncode != 0
    for name in ("PORT", "ENGINE", "LEASE_SECONDS"):
        assert name in refused.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "mysql://x", "DATABASE_URL must begin with postgres://"),
        ("SITE_URL", "headshots.example/", "SITE_URL must be a scheme and a host"),
    ],
)
def test_a_wrong_address_is_named(tmp_path: Path, name: str, value: str, words: str) -> None:
    refused = start(tmp_path / "data", **{name: value})

    assert refused.returncode != 0
    assert words in refused.stderr


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "PORT").write_text("not a number")

    refused = start(tmp_path / "data", HEADSHOTS_SECRETS_DIR=str(secrets))

    assert "PORT" in refused.stderr


def test_a_data_folder_that_others_can_open_is_an_error(data: Path) -> None:
    assert data_folder_is_private(None) == []

    data.chmod(0o755)

    assert [error.id for error in data_folder_is_private(None)] == ["headshots.E001"]


def test_upload_handlers_that_write_files_are_an_error(settings: Settings) -> None:
    assert uploads_stay_in_memory(None) == []

    settings.FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]

    assert [error.id for error in uploads_stay_in_memory(None)] == ["headshots.E002"]


def test_the_readme_lists_every_setting_with_its_meaning() -> None:
    readme = (ROOT / "README.md").read_text()

    for field in Environment.model_fields.values():
        assert field.description is not None
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{field.alias}` |"))
        assert row.endswith(f"| {field.description} |")


def test_the_readme_names_only_tests_that_exist() -> None:
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if "`tests/" in line]
    names = [part for line in lines for part in line.split("`")[1::2] if part.startswith("tests/")]

    assert names
    for name in names:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name


SENTRY_DEFAULTS = {  # of sentry-sdk 2.75, when it has been started
    "include_local_variables": True,
    "max_request_body_size": "medium",
    "send_default_pii": None,
    "data_collection": {"provided_by_user": False, "stack_frame_variables": True},
}
QUIET = {"include_local_variables": False, "max_request_body_size": "never"}


@pytest.mark.parametrize(
    ("is_started", "options", "named"),
    [
        (False, {}, ""),
        (True, QUIET, ""),
        (True, {}, "include_local_variables, max_request_body_size"),
        (True, {**QUIET, "max_request_body_size": "small"}, "max_request_body_size"),
        (True, {**QUIET, "send_default_pii": True}, "send_default_pii"),
        (True, {**QUIET, "data_collection": {"provided_by_user": True}}, "data_collection"),
    ],
)
def test_a_reporter_of_errors_that_may_send_photos_is_refused(
    monkeypatch: pytest.MonkeyPatch, is_started: bool, options: dict[str, object], named: str
) -> None:
    client = SimpleNamespace(is_active=lambda: is_started, options={**SENTRY_DEFAULTS, **options})
    monkeypatch.setitem(sys.modules, "sentry_sdk", SimpleNamespace(get_client=lambda: client))

    found = [error.msg for error in reports_of_errors_take_no_photo_along(None)]

    assert found == ([f"sentry-sdk would send what nobody may keep: {named}."] if named else [])


def test_without_a_reporter_of_errors_there_is_nothing_to_refuse() -> None:
    assert "sentry_sdk" not in sys.modules
    assert reports_of_errors_take_no_photo_along(None) == []
