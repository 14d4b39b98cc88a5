"""Staff screens of what is only looked at: shots, money, receipts, consent, heartbeats, the audit log."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from headshots.admin.base import ReadOnlyAdmin, at, labelled
from headshots.models import (
    AuditEntry,
    ConsentRecord,
    Dispute,
    Heartbeat,
    Payment,
    Receipt,
    Refund,
    Shot,
)


@admin.register(Shot)
class ShotAdmin(ReadOnlyAdmin[Shot]):
    """The queue and its history; seeds and stored objects stay out of it."""

    list_display = (
        "__str__",
        "style_version",
        "state",
        "attempts",
        "error_code",
        "lease_until",
        "render_seconds",
        "finished_at",
    )
    list_filter = ("state", "error_code", ("style_version__style", admin.RelatedFieldListFilter))
    list_select_related = ("style_version__style",)
    search_fields = ("order__receipt_id",)
    search_help_text = "Receipt number"
    ordering = ("-order__created_at", "index")
    fields = (
        "order",
        "index",
        "replaces",
        "style_version",
        "state",
        "attempts",
        "error_code",
        "lease_owner",
        "lease_until",
        "not_before",
        "width",
        "height",
        "render_seconds",
        "finished_at",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Shot]:
        return super().get_queryset(request).defer("seed")


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin[Payment]):
    """What orders cost and whether they were paid."""

    list_display = ("reference", "provider", "state", "amount_cents", "currency", "created_at", "paid_at")
    list_filter = ("state", "provider")
    search_fields = ("reference", "order__receipt_id")
    search_help_text = "The provider's reference, or a receipt number"
    fields = (
        "order",
        *list_display,
        *("charge_reference", "attempt", "checkout_id", "checkout_state", "checkout_expires_at"),
    )


@admin.register(Dispute)
class DisputeAdmin(ReadOnlyAdmin[Dispute]):
    """Payments that a customer's bank wants back."""

    list_display = ("payment", "state", "amount_cents", "provider_id", "opened_at", "closed_at")
    list_filter = ("state",)
    list_select_related = ("payment",)
    search_fields = ("provider_id", "payment__reference", "payment__order__receipt_id")
    search_help_text = "The provider's number or reference, or a receipt number"
    fields = list_display


@admin.register(Refund)
class RefundAdmin(ReadOnlyAdmin[Refund]):
    """What went back, and whether it has arrived."""

    list_display = (
        *("payment", "sequence", "amount_cents", "reason", "state", "error_code"),
        *("attempts", "created_at", "sent_at"),
    )
    list_filter = ("state", "reason")
    list_select_related = ("payment",)
    search_fields = ("payment__reference", "payment__order__receipt_id")
    search_help_text = "The provider's reference, or a receipt number"
    fields = (*list_display, "provider_id", "not_before")


@admin.register(Receipt)
class ReceiptAdmin(ReadOnlyAdmin[Receipt]):
    """What was deleted, and when."""

    list_display = ("id", "issued_at")
    search_fields = ("id",)
    search_help_text = "Receipt number"
    fields = ("id", "issued_at", "order", "signed_text")

    @admin.display(description="Text")
    def signed_text(self, receipt: Receipt) -> SafeString:
        return format_html("<pre>{}</pre>", receipt.text)


@admin.register(ConsentRecord)
class ConsentRecordAdmin(ReadOnlyAdmin[ConsentRecord]):
    """Which text was agreed to."""

    list_display = ("order_number", "text_version", "is_adult", "given_at")
    list_filter = ("text_version",)
    list_select_related = ("order",)
    search_fields = ("order__receipt_id",)
    search_help_text = "Receipt number"
    fields = ("order", "text_version", "text_sha256", "is_adult", "given_at")

    @admin.display(description="receipt number", ordering="order__receipt_id")
    def order_number(self, consent: ConsentRecord) -> str:
        return consent.order.receipt_id


@admin.register(Heartbeat)
class HeartbeatAdmin(ReadOnlyAdmin[Heartbeat]):
    """When each part of the service last did its round."""

    list_display = ("name", "seen")
    fields = list_display

    @admin.display(description="at (UTC)", ordering="at")
    def seen(self, heartbeat: Heartbeat) -> str | None:
        return at(heartbeat.at)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin[AuditEntry]):
    """Who did what."""

    list_display = ("when", "actor", "event", "reference", "details")
    list_filter = ("event",)
    search_fields = ("=reference", "=actor")
    search_help_text = "Receipt number, style, or who"
    fields = list_display

    @admin.display(description="at (UTC)", ordering="id")
    def when(self, entry: AuditEntry) -> str | None:
        return at(entry.at)

    @admin.display(description="details")
    def details(self, entry: AuditEntry) -> str:
        return labelled(entry.detail)
