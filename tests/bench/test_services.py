"""The benches of purge, archive and pack at a small size: their figures are there, and their checks hold."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # each starts the whole service in processes of its own


def quick(name: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "TEST_DATABASE_URL"}
    command = [sys.executable, "-m", f"tests.bench.{name}", "--quick"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)
    return dict(json.loads(done.stdout))


def test_the_bench_of_the_purge_measures_both_lags_and_the_inspection() -> None:
    found = quick("purge")["databases"]["sqlite"]

    assert (found["purge"]["orders"], found["purge"]["objects"]) == (8, 480)
    for lag in ("shred_seconds", "purge_seconds"):
        assert 0 < found["purge"][lag]["p50"] <= found["purge"][lag]["p99"] <= found["purge"][lag]["max"]
    assert found["purge"]["shred_seconds"]["max"] <= found["purge"]["purge_seconds"]["p50"]
    assert found["purge"]["pass_over_bare_unlink"] > 0
    assert found["inspection"]["objects"] == 240


def test_the_bench_of_the_archive_measures_growth_and_rate() -> None:
    four, twenty = quick("archive")["archives"]

    assert (four["archive_mib"], four["pictures"]) == (24, 6)
    assert (twenty["archive_mib"], twenty["pictures"]) == (40, 2)
    for found in (four, twenty):
        assert found["mib_per_second"] > 0
        assert found["seconds_over_bare_read"] > 0
    assert 0 < four["growth_mib"] < twenty["growth_mib"]


def test_the_bench_of_the_pack_measures_a_start_and_a_picture_in_4k() -> None:
    found = quick("pack")

    assert found["imports_seconds"] > 0
    assert found["worker_start_seconds"] > 0
    assert found["pack"]["pictures"] == 1
    assert found["pack"]["processor_seconds"] > 0
    assert found["pack"]["peak_mib"] >= found["pack"]["peak_mib_before"] > 0
