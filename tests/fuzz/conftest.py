"""How long the fuzzers run: a few hundred inputs with every test run, or as long as asked for.

`FUZZ_SECONDS=600 pytest tests/fuzz` gives each fuzzer ten minutes. Nothing found is kept in the checkout.
"""

import os
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Verbosity, settings

FUZZ_SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "0"))
UNHURRIED: Final = settings(
    deadline=None,
    database=None,
    derandomize=not FUZZ_SECONDS,  # a run in CI gives the same answer twice
    verbosity=Verbosity.normal,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)


@pytest.fixture
def fuzz() -> Callable[..., None]:
    """Runs a Hypothesis test: once over `examples` inputs, or again and again until FUZZ_SECONDS are over."""

    def run(test: Callable[[], Any], *, examples: int) -> None:
        once = settings(UNHURRIED, max_examples=max(examples, 500) if FUZZ_SECONDS else examples)(test)
        end = time.monotonic() + FUZZ_SECONDS
        once()
        while time.monotonic() < end:  # with other inputs each time
            once()

    return run
