"""What was asked for, paid, given back and disputed."""

from django.db import models
from django.db.models import Q

from headshots.models.orders import Order


class Payment(models.Model):
    """What an order costs and whether it was paid; an order starts from here, never from a redirect."""

    class State(models.TextChoices):
        OPEN = "open"
        PAID = "paid"

    class CheckoutState(models.TextChoices):
        OPEN = "open"  # its customer may pay, or has paid and the event is on its way
        PROCESSING = "processing"
        FAILED = "failed"
        EXPIRED = "expired"

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="payment")
    provider = models.CharField(max_length=20)
    reference = models.CharField(max_length=100, unique=True)
    amount_cents = models.PositiveIntegerField()
    currency = models.CharField(max_length=3)
    state = models.CharField(max_length=10, choices=State, default=State.OPEN)
    created_at = models.DateTimeField()
    paid_at = models.DateTimeField(null=True)
    charge_reference = models.CharField(max_length=255, default="", blank=True, db_index=True)

    # the newest attempt at paying it, a page of the provider's; see services.checkouts
    attempt = models.PositiveSmallIntegerField(default=0)
    checkout_id = models.CharField(max_length=255, default="", blank=True)
    checkout_state = models.CharField(max_length=10, choices=CheckoutState, default=CheckoutState.OPEN)
    checkout_expires_at = models.DateTimeField(null=True)
    look_at = models.DateTimeField(null=True)  # when to ask the provider, should no event come

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(checkout_state__in=("open", "processing", "failed", "expired")),
                name="checkout_state_is_known",
            ),
        )

    def __str__(self) -> str:
        return f"payment {self.reference}"


class PaymentEvent(models.Model):
    """An event a provider sent, kept so that its second delivery has no second effect."""

    provider = models.CharField(max_length=20)
    event_id = models.CharField(max_length=100)
    received_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("provider", "event_id"), name="one_effect_per_event"),)

    def __str__(self) -> str:
        return f"{self.provider} event {self.event_id}"


class Refund(models.Model):
    """Money that goes back: written first, then sent to the provider, with or without us."""

    class State(models.TextChoices):
        DUE = "due"
        SENT = "sent"
        FAILED = "failed"

    class Reason(models.TextChoices):
        NOT_DELIVERED = "not delivered"
        STAFF = "staff"
        OUTSIDE = "outside"  # somebody gave it back at the provider, not through us

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    sequence = models.PositiveSmallIntegerField()
    amount_cents = models.PositiveIntegerField()
    reason = models.CharField(max_length=40, choices=Reason)
    pictures = models.JSONField(default=list)  # indexes of the shots whose price this is
    created_at = models.DateTimeField()
    state = models.CharField(max_length=10, choices=State, default=State.DUE)
    attempts = models.PositiveSmallIntegerField(default=0)
    not_before = models.DateTimeField()
    provider_id = models.CharField(max_length=255, default="", blank=True)
    sent_at = models.DateTimeField(null=True)
    error_code = models.CharField(max_length=60, default="", blank=True)

    class Meta:
        indexes = (models.Index(fields=("state", "not_before")),)
        constraints = (
            models.UniqueConstraint(fields=("payment", "sequence"), name="one_refund_per_sequence"),
            models.CheckConstraint(condition=Q(amount_cents__gt=0), name="refund_is_not_empty"),
            models.CheckConstraint(
                condition=Q(state="due")
                | Q(state="sent", sent_at__isnull=False)
                | (Q(state="failed") & ~Q(error_code="")),
                name="refund_state_is_explained",
            ),
        )

    def __str__(self) -> str:
        return f"refund {self.sequence} of {self.payment.reference}"


class Dispute(models.Model):
    """A customer's bank wants a payment back; nothing is delivered unless it ends for us."""

    class State(models.TextChoices):
        OPEN = "open"
        WON = "won"
        LOST = "lost"

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="disputes")
    provider_id = models.CharField(max_length=255, unique=True)
    state = models.CharField(max_length=10, choices=State)
    amount_cents = models.PositiveIntegerField()  # as the bank names it, maybe in another currency
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=("open", "won", "lost")), name="dispute_state_is_known"
            ),
        )

    def __str__(self) -> str:
        return f"dispute of {self.payment.reference}"
