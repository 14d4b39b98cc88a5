"""What the staff screens share: typed bases, a model admin that changes nothing, tables and spans of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

M = TypeVar("M", bound=Model)

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as ModelAdmin
    from django.forms import ModelForm as ModelForm
else:  # the two are generic for the type checker only; at run time the parameter falls away

    class ModelAdmin(admin.ModelAdmin):
        def __class_getitem__(cls, model: type[Model]) -> type:
            return cls

    from django.forms import ModelForm as DjangoModelForm

    class ModelForm(DjangoModelForm):
        def __class_getitem__(cls, model: type[Model]) -> type:
            return cls


PER_PAGE = 50
"""Rows of one list page: a ticked row is a form field, and DATA_UPLOAD_MAX_NUMBER_FIELDS allows 100."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to show below a form or on the dashboard; `note` stands below the title."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""


class ReadOnlyAdmin(ModelAdmin[M]):
    """Lists and shows, never adds, changes or deletes; whoever may view the model may open it."""

    list_per_page = PER_PAGE
    list_max_show_all = PER_PAGE

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False


def actor_of(request: HttpRequest) -> str:
    """The name under which the audit log knows whoever sent this request."""
    return str(request.user.get_username())


def span(start: datetime, end: datetime | None) -> str:
    """The time from `start` to `end` as a person reads it, "4.2 s" or "3 min 5 s"; a dash if it is open."""
    return "–" if end is None else length(end - start)


def length(duration: timedelta) -> str:
    """A duration as a person reads it; a negative one is a clock that went back, and reads as nothing."""
    seconds = max(0.0, duration.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def counted(number: int, noun: str) -> str:
    """A count with its noun: "1 shot", "3 shots"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def labelled(detail: dict[str, Any]) -> str:
    """An audit entry's detail on one line."""
    return ", ".join(f"{name} {value}" for name, value in detail.items())


def at(moment: datetime | None) -> str | None:
    """A moment in UTC, to the second; None if it has not come."""
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else None
