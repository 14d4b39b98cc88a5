"""Giving money back by hand: asked for on a page of its own, with a reason, order by order."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.template.response import TemplateResponse

from headshots.admin.base import ReadOnlyAdmin, actor_of
from headshots.exceptions import Refusal, text_of
from headshots.models import Order
from headshots.services import clock, staff_refunds
from headshots.services.staff_refunds import REASONS

log = logging.getLogger(__name__)

MAX_REFUNDS: Final = 20  # few enough for the eyes of whoever confirms them
_NUMBERS: Final = re.compile(r"\d{1,3}(-\d{1,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was filled in: a reason's code, and the numbers of the pictures, None for all of them."""

    reason: str
    pictures: frozenset[int] | None
    problem: str = ""


class RefundActions(ReadOnlyAdmin[Order]):
    """The action "Refund" of the orders, for those who may add refunds."""

    def has_refund_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("headshots.add_refund")

    @admin.action(description="Refund", permissions=("refund",))
    def refund(self, request: HttpRequest, queryset: QuerySet[Order]) -> TemplateResponse | None:
        """Ask what and why first; then refund each order, whatever becomes of the others."""
        chosen = list(queryset[: MAX_REFUNDS + 1])
        if len(chosen) > MAX_REFUNDS:
            messages.error(request, f"Choose at most {MAX_REFUNDS} orders at a time. Nothing was given back.")
            return None
        if "confirmed" not in request.POST:
            return self._ask_before_refund(request, chosen)
        choice = read_choice(request.POST, order_count=len(chosen))
        if choice.problem:
            return self._ask_before_refund(request, chosen, choice.problem)
        for order in chosen:
            _give_back(request, order, choice)
        return None

    def _ask_before_refund(
        self, request: HttpRequest, chosen: Sequence[Order], problem: str = ""
    ) -> TemplateResponse:
        rows = [(order, dollars(staff_refunds.left_cents(order))) for order in chosen]
        context = {
            **self.admin_site.each_context(request),
            "title": "Refund?",
            "opts": self.opts,
            "orders": rows,
            "reasons": REASONS.items(),
            "may_name_pictures": len(chosen) == 1,
            "given": {name: request.POST.get(name, "") for name in ("reason", "scope", "pictures")},
            "problem": problem,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/headshots/order/refund_confirmation.html", context)


def read_choice(post: QueryDict, *, order_count: int) -> Choice:
    """What the page was sent with; `problem` says what of it cannot be done."""
    reason = post.get("reason", "")
    if reason not in REASONS:
        return Choice(reason=reason, pictures=None, problem="Choose a reason.")
    if post.get("scope") == "all":
        return Choice(reason=reason, pictures=None)
    if order_count > 1:
        return Choice(reason=reason, pictures=None, problem="Single pictures are refunded order by order.")
    words = [word for word in re.split(r"[\s,]+", post.get("pictures", "")) if word]
    numbers = frozenset(_numbers(words)) if all(_NUMBERS.fullmatch(word) for word in words) else None
    if not numbers:
        return Choice(reason=reason, pictures=None, problem="Name pictures by their numbers, as in 1, 4-6.")
    return Choice(reason=reason, pictures=numbers)


def _numbers(words: Iterable[str]) -> Iterable[int]:
    for word in words:
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _give_back(request: HttpRequest, order: Order, choice: Choice) -> None:
    try:
        cents = staff_refunds.refund(
            order,
            pictures=choice.pictures,
            reason=choice.reason,
            actor=actor_of(request),
            now=clock.now(),
        )
    except Refusal as refused:
        messages.warning(request, f"{order.receipt_id}: {text_of(refused).message}")
    except Exception as error:  # whatever the database said about this one, the others are refunded
        log.error("refund of order %s failed: %s", order.pk, type(error).__name__)
        messages.error(
            request,
            f"{order.receipt_id}: the refund failed ({type(error).__name__}). Nothing was given back.",
        )
    else:
        messages.success(request, f"{order.receipt_id}: {dollars(cents)} will be given back.")


def dollars(cents: int) -> str:
    """Cents as staff read them: "$0.38"."""
    return f"${cents // 100}.{cents % 100:02d}"
