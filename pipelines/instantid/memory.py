"""How many shots share a forward, on a device whose memory runs out now and then; and how often it did."""

import logging
from collections.abc import Callable
from typing import Final as Constant
from typing import TypeVar

import torch

from pipelines.failures import is_out_of_memory

CLEAN_FORWARDS: Constant = 200  # in a row, until twice as many shots are tried again: about a minute

_log = logging.getLogger(__name__)

MadeT = TypeVar("MadeT")


class Memory:
    """The memory of one engine's device, as its shortages have shown it."""

    def __init__(self, slots: int) -> None:
        """`slots` is how many shots a forward takes where memory suffices."""
        self.limit = slots  # shots in one forward
        self.shortages = 0  # since the engine was loaded
        self._slots = slots
        self._clean_forwards = 0

    def fitted(self) -> None:
        """A forward went through: after many, what took the memory is gone, and they may grow again."""
        if self.limit == self._slots:
            return
        self._clean_forwards += 1
        if self._clean_forwards == CLEAN_FORWARDS:
            self._clean_forwards = 0
            self.limit = min(2 * self.limit, self._slots)
            _log.info("forwards of %d shots are tried again", self.limit)

    def ran_out(self, shots: int) -> None:
        """A forward of so many shots did not fit: the next one has half of them."""
        self._clean_forwards = 0
        self.limit = max(1, shots // 2)
        self._count(shots)

    def twice(self, make: Callable[[], MadeT]) -> MadeT:
        """What `make` gives; where memory runs out it is called again with all the memory that can be had."""
        try:
            return make()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._count(1)  # outside of the except block: the error's traceback keeps the failed layers alive
        return make()

    def _count(self, shots: int) -> None:
        self.shortages += 1
        _log.warning("out of memory with %d shots, %d times so far", shots, self.shortages)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
