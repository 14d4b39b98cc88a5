"""What may reach a log: the events our own code words, and of everything else its class, its place, its code.

A line is the time, the level, the logger and the event. Our templates are literals; what is put into them
goes through an allow-list of numbers, ids and words that stand in our own source. What other libraries say is
never repeated: it may hold a path, an address, a prompt, an argument or the text of an exception.
"""

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from numbers import Real
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final
from uuid import UUID

from pipelines.errors import PipelineError

OWN: Final = ("headshots", "pipelines")
WITHHELD: Final = "[withheld]"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FRAMES: Final = 12  # of one traceback, the innermost; deeper ones are the server's own

_ID: Final = re.compile(
    "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # a row
    "|[ot]/[0-9a-f]{32}(/[0-9a-f]{32})?"  # an object or a tombstone in the store
    "|[0-9A-Z]{4}(-[0-9A-Z]{4}){3}"  # a receipt
)
_QUOTED: Final = re.compile('"([A-Za-z][A-Za-z0-9_. -]{1,39})"')
_LOGGER: Final = re.compile("[A-Za-z0-9_.]{1,80}")
_SOURCES: Final = Path(__file__).parent.parent

log = logging.getLogger(__name__)


class Public(str):
    """A text whose author vouches that it says nothing about a person: it is logged as it is."""

    __slots__ = ()


class EventFormatter(logging.Formatter):
    """One line a record, whatever it holds: time in UTC, level, logger, event, and the error's trail."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        name = record.name if _LOGGER.fullmatch(record.name) else WITHHELD
        line = f"{at.removesuffix('+00:00')}Z {record.levelname} {name} {event_of(record)}"
        error = record.exc_info and record.exc_info[1]
        return f"{line}: {trail_of(error)}" if error else line


class EventHandler(logging.StreamHandler[Any]):
    """To the process's real standard error, also where a library has put something in its place."""

    def __init__(self) -> None:
        super().__init__(sys.__stderr__)
        self.setFormatter(EventFormatter())

    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be written is lost; the usual complaint would print the record's arguments."""


# --- events -----------------------------------------------------------------------------------------------


def event_of(record: logging.LogRecord) -> str:
    """The event of a record in allowed words, on one line."""
    root = record.name.partition(".")[0]
    if root in OWN:
        return _own_event(record)
    describe = next((d for name, d in _KNOWN.items() if f"{record.name}.".startswith(f"{name}.")), _place)
    return describe(record)


def _own_event(record: logging.LogRecord) -> str:
    if not isinstance(record.msg, str):
        return str(_allowed(record.msg))
    try:
        return record.msg % _arguments(record.args) if record.args else record.msg
    except (TypeError, ValueError, KeyError):  # a number was announced and something else came
        return f"{record.msg} {WITHHELD}"


def _arguments(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {name: _allowed(value) for name, value in given.items()}
    return tuple(_allowed(value) for value in given)


def _allowed(value: object) -> object:
    """The value if it can say nothing about a person; otherwise its class, or WITHHELD for a text."""
    match value:
        case None | Real() | Public():
            return value
        case UUID() | datetime():
            return str(value)
        case BaseException():
            return name_of(value)
        case type():
            return value.__name__
        case str():
            return value if all(_is_known(part) for part in value.split(", ")) else WITHHELD
    return f"[{type(value).__name__}]"


def _is_known(word: str) -> bool:
    return not word or bool(_ID.fullmatch(word)) or word in _own_words() or word in _exceptions()


@cache
def _own_words() -> frozenset[str]:
    """Everything short that our own source holds in quotes: codes, states, names. None of it is a secret."""
    files = [path for package in OWN for path in (_SOURCES / package).rglob("*.py")]
    return frozenset(word for path in files for word in _QUOTED.findall(path.read_text(encoding="utf-8")))


def _exceptions() -> Iterator[str]:
    """The names of all classes of exceptions there are."""
    seen: list[type[BaseException]] = [BaseException]
    for known in seen:
        yield known.__name__
        seen += known.__subclasses__()


def name_of(error: BaseException) -> str:
    """The error's class, and its code where it is one of ours; never its text."""
    name = type(error).__name__
    if isinstance(error, PipelineError) and error.code in _own_words():
        return f"{name}({error.code})"
    return name


def trail_of(error: BaseException) -> str:
    """The error, where it was raised and came through, and what it came from: places in the code alone."""
    trail, seen = [], {id(error)}
    while True:
        places = _places(error.__traceback__)
        trail.append(f"{name_of(error)} at {' < '.join(places)}" if places else name_of(error))
        origin = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if origin is None or id(origin) in seen:
            return "; from ".join(trail)
        seen.add(id(origin))
        error = origin


def _places(traceback: TracebackType | None) -> list[str]:
    """The innermost frames, innermost first, as file:line and function."""
    found = [
        f"{'/'.join(Path(frame.f_code.co_filename).parts[-3:])}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(traceback)
    ]
    return found[::-1][:FRAMES]


def _place(record: logging.LogRecord) -> str:
    """What is told of a library's record: where it was written, and the classes of errors it speaks of."""
    given = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
    errors = [name_of(value) for value in (record.msg, *given) if isinstance(value, BaseException)]
    return " ".join((f"{record.module}:{record.lineno}", *errors))


def _request(record: logging.LogRecord) -> str:
    """Method, the route's pattern and status of a request; not its address, query or sender."""
    request, status = getattr(record, "request", None), getattr(record, "status_code", None)
    method = getattr(request, "method", None)
    route = getattr(getattr(request, "resolver_match", None), "route", None)
    return (
        f"{method if method in METHODS else 'request'} "
        f"{f'/{route}' if isinstance(route, str) else 'no route'} "
        f"{status if isinstance(status, int) else ''}"
    ).rstrip()


def _task(record: logging.LogRecord) -> str:
    """Name and id of a task; not its arguments, result or error's text."""
    about = getattr(record, "data", None)
    if not isinstance(about, Mapping):
        return _place(record)
    return f"{record.module}:{record.lineno} {_allowed(about.get('name'))} {_allowed(about.get('id'))}"


_KNOWN: Final[Mapping[str, Callable[[logging.LogRecord], str]]] = {
    "django.request": _request,
    "celery.app.trace": _task,
    "celery.worker.strategy": _task,
}


# --- a process --------------------------------------------------------------------------------------------


def install() -> None:
    """Make this process say nothing but events, from warnings and uncaught errors too. May be repeated."""
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda lost: log.error("an error was lost", exc_info=lost.exc_value)
    threading.excepthook = lambda ended: log.error("a thread ended", exc_info=ended.exc_value)
    take_over()


def take_over() -> None:
    """Send what every library logs to the root's handlers alone; to be repeated once new ones are loaded."""
    for logger in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("the process ends", exc_info=error)
