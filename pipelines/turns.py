"""Whose shots make the next denoising step, when some of those in flight are urgent.

A step takes nearly as long as its shots would one after the other. A small order that shares every step with
a pack therefore takes as long as the pack's shots beside it: on eight slots 2.7 times as long as alone
(tests/bench/queueing.py, which also chose ALONE_STEPS). So urgent shots go ahead alone, and the others wait
aboard, but never for longer than one picture takes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

ALONE_STEPS: Final = 30
"""In a row that urgent shots may make alone while others wait, and that all then make together."""

FlightT = TypeVar("FlightT")


@dataclass(slots=True)
class Turns:
    """The turns of one run of an engine."""

    _alone: int = 0
    _together: int = 0

    def split(
        self, flights: Sequence[FlightT], is_urgent: Callable[[FlightT], bool]
    ) -> tuple[list[FlightT], list[FlightT]]:
        """The flights that make the next step, and those that wait; only urgent ones let others wait."""
        urgent = [flight for flight in flights if is_urgent(flight)]
        is_mixed = 0 < len(urgent) < len(flights)
        if is_mixed and self._alone < ALONE_STEPS:
            self._alone += 1
            self._together = 0
            return urgent, [flight for flight in flights if not is_urgent(flight)]
        self._together += 1
        if not is_mixed or self._together >= ALONE_STEPS:
            self._alone = 0
        return list(flights), []
