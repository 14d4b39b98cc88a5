"""Where mails go, sealed, and which are due."""

import uuid

from django.db import models
from django.db.models import Q

from headshots.models.orders import Order


class MailAddress(models.Model):
    """Where an order's mails go, sealed under its results key and deleted in one transaction with it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="mail_address")
    sealed = models.BinaryField(max_length=700)

    def __str__(self) -> str:
        return f"mail address of order {self.order_id}"


class Mail(models.Model):
    """One mail about an order, without its address and text; each kind is sent once."""

    class Kind(models.TextChoices):
        PLACED = "placed"
        READY = "ready"
        FAILED = "failed"
        REFUNDED = "refunded"
        REFUSED = "refused"
        DELETED = "deleted"

    class State(models.TextChoices):
        DUE = "due"
        SENT = "sent"
        GIVEN_UP = "given up"

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="mails")
    kind = models.CharField(max_length=10, choices=Kind)
    state = models.CharField(max_length=10, choices=State, default=State.DUE)
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField()
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (models.Index(fields=("state", "not_before")),)
        constraints = (
            models.UniqueConstraint(fields=("order", "kind"), name="one_mail_per_order_and_kind"),
            models.CheckConstraint(
                condition=Q(state="sent", sent_at__isnull=False)
                | Q(state__in=("due", "given up"), sent_at__isnull=True),
                name="mail_state_is_explained",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} mail of order {self.order_id}"
