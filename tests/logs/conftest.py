"""What a test of the logs reads."""

import io
import logging
from collections.abc import Iterator

import pytest
from pytest_django import Settings

from headshots import logs
from tests.api.conftest import ready

__all__ = ["ready"]  # a fixture of the API's tests


@pytest.fixture
def written(settings: Settings) -> Iterator[io.StringIO]:
    """All that this process logs, down to DEBUG, as the service would write it; Django's debug mode is on."""
    settings.DEBUG = True
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.EventFormatter())
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)
