"""Staff screen of the orders: what became of each, and what staff may do: retry, refund and purge."""

import logging
import uuid
from datetime import timedelta
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Count, Min, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from headshots.admin.base import actor_of, at, counted, length, span
from headshots.admin.order_tables import PURGE_STEPS, tables_of
from headshots.admin.refunds import RefundActions, dollars
from headshots.exceptions import Refusal, text_of
from headshots.models import Order
from headshots.services import audit, clock, orders, payments, purge, staff_refunds
from headshots.states import LIVE_STATES, OrderState, ShotState

log = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 50  # a purge deletes objects before it answers: one request must not run for minutes


@admin.register(Order)
class OrderAdmin(RefundActions):
    """Orders: read-only, with "Retry failed shots", "Refund" and "Purge now"."""

    change_form_template = "admin/headshots/order/change_form.html"
    list_display = (
        "receipt_number",
        "state",
        "tier",
        "progress",
        "first_picture_after",
        "finished_after",
        "expires",
        "refusal_code",
        "purge_progress",
        "created",
    )
    list_filter = ("state", "tier")
    search_fields = ("receipt_id",)
    search_help_text = "Receipt number, or order id"
    actions = ("retry_failed", "refund", "purge_now")
    fieldsets = (
        ("Order", {"fields": ("receipt_id", "id", "state", "refusal_code", "progress")}),
        ("Plan", {"fields": ("tier", "plan", "price_cents", "engine")}),
        ("Purge", {"fields": ("purge_progress", "purge_reason", "purge_attempts", "next_try", "generation")}),
    )

    # who may do what

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("headshots.change_order")

    def has_purge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("headshots.delete_order")

    # what the list shows

    def get_queryset(self, request: HttpRequest) -> QuerySet[Order]:
        """The orders with their counts; secrets are not even read from the database."""
        return (
            super()
            .get_queryset(request)
            .defer("seed_root", "token_sha256", "upload_id")
            .annotate(
                done=Count("shots", filter=Q(shots__state=ShotState.DONE)),
                failed=Count("shots", filter=Q(shots__state=ShotState.FAILED, shots__replaces=None)),
                first_picture_at=Min("shots__finished_at", filter=Q(shots__state=ShotState.DONE)),
            )
        )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Order], search_term: str
    ) -> tuple[QuerySet[Order], bool]:
        try:
            return queryset.filter(pk=uuid.UUID(search_term.strip())), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="done / failed / all")
    def progress(self, order: Order) -> str:
        return f"{getattr(order, 'done', 0)} / {getattr(order, 'failed', 0)} / {order.headshots}"

    @admin.display(description="receipt", ordering="receipt_id")
    def receipt_number(self, order: Order) -> SafeString:
        return format_html('<span class="nowrap">{}</span>', order.receipt_id)

    @admin.display(description="created (UTC)", ordering="created_at")
    def created(self, order: Order) -> str | None:
        return at(order.created_at)

    @admin.display(description="1st picture after")
    def first_picture_after(self, order: Order) -> str:
        return span(order.created_at, getattr(order, "first_picture_at", None))

    @admin.display(description="finished after")
    def finished_after(self, order: Order) -> str:
        return span(order.created_at, order.finished_at)

    @admin.display(description="expires in", ordering="expires_at")
    def expires(self, order: Order) -> str:
        if order.state not in LIVE_STATES:
            return "–"
        left = order.expires_at - clock.now()
        return length(left) if left > timedelta(0) else "expired"

    @admin.display(description="purge")
    def purge_progress(self, order: Order) -> str:
        """The last step that was reached, and how many there are."""
        reached = [text for name, text in PURGE_STEPS if getattr(order, name)]
        if not order.fenced_at:  # a refused photo is erased at once; its order is fenced when it expires
            return reached[-1] if reached else "–"
        return f"{len(reached)} of {len(PURGE_STEPS)}: {reached[-1]}"

    # what only the page of one order shows

    @admin.display(description="Headshots")
    def plan(self, order: Order) -> str:
        mark = "with" if order.is_watermarked else "without"
        return f"{order.headshots} at {order.long_edge} pixels, {mark} visible watermark"

    @admin.display(description="Next try (UTC)")
    def next_try(self, order: Order) -> str:
        waits = order.state == OrderState.PURGING
        return (at(order.purge_not_before) if waits else None) or "–"

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: Any = False,
        change: Any = False,
        form_url: Any = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Django's page with the actions as buttons and the tables below the fields."""
        if obj is not None:
            buttons = []
            can_retry = obj.failed and obj.state in LIVE_STATES and not payments.is_refunded(obj)
            if can_retry and self.has_retry_permission(request):
                buttons.append(("retry_failed", "Retry failed shots"))
            if self.has_refund_permission(request) and staff_refunds.left_cents(obj):
                buttons.append(("refund", "Refund"))
            if self.has_purge_permission(request) and obj.state in LIVE_STATES:
                buttons.append(("purge_now", "Purge now"))
            context.update(
                tables=tables_of(obj, obj.first_picture_at),
                action_buttons=buttons,
                changelist_url=reverse("admin:headshots_order_changelist"),
                action_checkbox_name=ACTION_CHECKBOX_NAME,
            )
        return super().render_change_form(
            request, context, add=add, change=change, form_url=form_url, obj=obj
        )

    # actions

    @admin.action(description="Retry failed shots", permissions=("retry",))
    def retry_failed(self, request: HttpRequest, queryset: QuerySet[Order]) -> None:
        """Three fresh attempts for every failed shot; one order's failure does not stop the others."""
        revived, skipped = 0, 0
        for order in queryset:
            try:
                count = orders.retry_failed(order, actor=actor_of(request), now=clock.now())
            except Refusal as refused:
                messages.warning(request, f"{order.receipt_id}: {text_of(refused).message}")
                continue
            except Exception as error:  # whatever the database said about this one, the others are tried
                _report(request, order, "retry", error)
                continue
            revived += count
            skipped += not count
        if revived:
            messages.success(request, f"{counted(revived, 'shot')} will be tried again.")
        if skipped:
            messages.warning(
                request,
                f"{counted(skipped, 'order')} left as before: nothing failed, at work, refunded or over.",
            )

    @admin.action(description="Purge now", permissions=("purge",))
    def purge_now(self, request: HttpRequest, queryset: QuerySet[Order]) -> TemplateResponse | None:
        """Ask first; then delete each order, whatever becomes of the others."""
        chosen = list(queryset[: MAX_AT_ONCE + 1])
        if len(chosen) > MAX_AT_ONCE:
            messages.error(request, f"Choose at most {MAX_AT_ONCE} orders at a time. Nothing was deleted.")
            return None
        if "confirmed" not in request.POST:
            return self._ask_before_purge(request, chosen)
        begun, skipped = 0, 0
        for order in chosen:
            if order.state not in LIVE_STATES:
                skipped += 1
                continue
            try:
                _purge(order, actor=actor_of(request))
            except (
                Exception
            ) as error:  # whatever the store or database said about this one, the others are purged
                _report(request, order, "purge", error)
                continue
            begun += 1
        if begun:
            messages.success(
                request, f"{counted(begun, 'order')} can no longer be read; receipts follow the second look."
            )
        if skipped:
            messages.warning(
                request, f"{counted(skipped, 'order')} left as before: the purge had begun already."
            )
        return None

    def _ask_before_purge(self, request: HttpRequest, chosen: list[Order]) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": "Purge now?",
            "opts": self.opts,
            "orders": [
                (order, self.progress(order), dollars(payments.missing_cents(order))) for order in chosen
            ],
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/headshots/order/purge_confirmation.html", context)


def _purge(order: Order, *, actor: str) -> None:
    """Name who asked in the audit log, then delete: the name is kept even if the deletion breaks off."""
    now = clock.now()
    audit.record("purge.requested", actor=actor, reference=order.receipt_id, now=now)
    purge.request(order, actor="staff", now=now)


def _report(request: HttpRequest, order: Order, action: str, error: Exception) -> None:
    log.error("%s of order %s failed: %s", action, order.pk, type(error).__name__)
    messages.error(request, f"{order.receipt_id}: the {action} failed ({type(error).__name__}). Try again.")
