"""A blob store that fails, lies and is raced, over the real one on a disk; and an observer of both."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from headshots.vault.blobs import BlobStore
from headshots.vault.errors import StoreAway

OPERATIONS: Final = ("put", "get", "delete", "list")


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong now. `only` limits it to names that contain this text."""

    failing: set[str] = field(default_factory=set)  # of OPERATIONS
    is_after_effect: bool = False  # the answer is lost, not the request
    only: str = ""

    def strike(self, operation: str, name: str, *, after: bool) -> None:
        """Raises StoreAway where this operation fails at this moment: before or after its effect."""
        if operation in self.failing and self.only in name and after == self.is_after_effect:
            raise StoreAway(f"{operation} has no answer")


class UnreliableStore:
    """The BlobStore protocol over a real store, with `faults` and with `races`.

    Each of `races` is called once, in the middle of one put: after everything was checked, before the bytes
    are there.
    """

    def __init__(self, real: BlobStore) -> None:
        self.real = real
        self.faults = Faults()
        self.races: deque[Callable[[], None]] = deque()
        self.on_put: Callable[[str, bytes], None] = lambda name, data: None
        self.on_list: Callable[[str, Sequence[str]], None] = lambda prefix, names: None

    def put(self, name: str, data: bytes | bytearray) -> None:
        """As the protocol has it, after the next race."""
        if self.races and name.startswith("o/"):
            self.races.popleft()()
        self.faults.strike("put", name, after=False)
        self.real.put(name, data)
        self.on_put(name, bytes(data))
        self.faults.strike("put", name, after=True)

    def get(self, name: str) -> bytes:
        """As the protocol has it."""
        self.faults.strike("get", name, after=False)
        found = self.real.get(name)
        self.faults.strike("get", name, after=True)
        return found

    def delete(self, name: str) -> bool:
        """As the protocol has it."""
        self.faults.strike("delete", name, after=False)
        was_there = self.real.delete(name)
        self.faults.strike("delete", name, after=True)
        return was_there

    def delete_all(self, prefix: str) -> int:
        """As the protocol has it: what fails is raised after everything else was deleted."""
        failure: StoreAway | None = None
        deleted = 0
        for name in [*self.list(prefix)]:
            try:
                deleted += self.delete(name)
            except StoreAway as error:
                failure = error
        if failure is not None:
            raise failure
        return deleted

    def list(self, prefix: str) -> Iterator[str]:
        """As the protocol has it; a listing that fails after its effect breaks off after the first name."""
        self.faults.strike("list", prefix, after=False)
        names = sorted(self.real.list(prefix))
        self.on_list(prefix, names)
        yield from names[:1]
        self.faults.strike("list", prefix, after=True)
        yield from names[1:]

    def hidden(self, prefix: str) -> tuple[int, int]:
        """As the protocol has it."""
        self.faults.strike("list", prefix, after=False)
        return self.real.hidden(prefix)

    def weaknesses(self) -> Sequence[str]:
        """As the protocol has it."""
        return self.real.weaknesses()
