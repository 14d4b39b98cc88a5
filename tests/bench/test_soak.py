"""The soak, six minutes long: every order is served, and what it measures is there."""

import json
import os
import subprocess
import sys

import pytest

from tests.bench.soak import SAMPLES

pytestmark = pytest.mark.slow


def test_the_soak_serves_every_order_and_measures_both_tiers() -> None:
    command = [sys.executable, "-m", "tests.bench.soak", "--hours", "0.1"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ})
    found = json.loads(done.stdout)

    tiers = found["seconds_from_upload_to_last_picture"]
    assert tiers["free"]["orders"] + tiers["premium"]["orders"] == found["orders"]
    for tier in tiers.values():
        assert 0 < tier["p50"] <= tier["p95"] <= tier["max"]
    assert found["pictures"] == 3 * tiers["free"]["orders"] + 50 * tiers["premium"]["orders"]
    # What was made, not what might have been.
    assert 0 < found["load"] < found["load_if_all_spares_were_made"] == 0.7
    assert 0 < found["device_busy_share"] <= 1
    assert len(found["samples"]) == SAMPLES
