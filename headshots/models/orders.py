"""Orders, and what the vault holds for them: consent, licence, keys, objects, photos."""

import uuid
from datetime import datetime
from typing import Any, NoReturn

from django.db import models
from django.db.models import F, Q

from headshots.models.base import Immutable
from headshots.states import LIVE_STATES, ORDER_MOVES, OrderState, sources_of
from headshots.tiers import TIERS


class OrderQuerySet(models.QuerySet["Order"]):
    def live(self, now: datetime) -> "OrderQuerySet":
        """Orders whose customer may still read them; nothing else decides, whatever runs or does not run."""
        return self.filter(state__in=LIVE_STATES, expires_at__gt=now)

    def due(self, now: datetime) -> "OrderQuerySet":
        """Orders the purge has work on: expired ones, and begun ones whose next try has come."""
        return self.filter(
            Q(state__in=LIVE_STATES, expires_at__lte=now)
            | Q(state=OrderState.PURGING, purge_not_before__lte=now)
        )

    def movable(self, target: OrderState) -> "OrderQuerySet":
        """Orders whose state may become `target`."""
        return self.filter(state__in=sources_of(ORDER_MOVES, target))

    def move(self, target: OrderState, **changes: Any) -> int:
        """Move what may move to `target`; the count says how many did. 0 means somebody else was first."""
        return self.movable(target).update(state=target, **changes)


class Order(models.Model):
    """One selfie's way through the house. After the purge only numbers, times and the receipt's id remain."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    upload_id = models.UUIDField(unique=True, null=True)  # made by the form or client: one upload, one order
    token_sha256 = models.CharField(max_length=64, unique=True, null=True)
    receipt_id = models.CharField(max_length=19, unique=True)
    state = models.CharField(max_length=20, choices=OrderState, default=OrderState.ASSESSING)
    generation = models.PositiveIntegerField(default=1)  # fence: raised by the purge, checked by every writer
    refusal_code = models.CharField(max_length=40, default="", blank=True)
    engine = models.CharField(max_length=20)

    # the frozen plan, beside the shots' style versions and seeds
    tier = models.CharField(max_length=20)
    headshots = models.PositiveSmallIntegerField()
    long_edge = models.PositiveSmallIntegerField()
    is_watermarked = models.BooleanField()
    price_cents = models.PositiveIntegerField()
    seed_root = models.BinaryField(max_length=32, null=True)

    epoch = models.PositiveIntegerField()
    created_at = models.DateTimeField()  # T0: first byte of the first photo accepted
    expires_at = models.DateTimeField()  # reads stop, the purge begins
    not_after = models.DateTimeField()  # the epoch key is gone: nobody can decrypt
    assess_attempts = models.PositiveSmallIntegerField(default=0)
    assess_lease_until = models.DateTimeField(null=True)
    assessed_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    purge_reason = models.CharField(max_length=20, default="", blank=True)
    purge_not_before = models.DateTimeField(null=True)
    purge_attempts = models.PositiveIntegerField(default=0)
    fenced_at = models.DateTimeField(null=True)
    shredded_at = models.DateTimeField(null=True)
    swept_at = models.DateTimeField(null=True)
    absent_at = models.DateTimeField(null=True)
    absent_again_at = models.DateTimeField(null=True)
    settles_at = models.DateTimeField(null=True)
    purged_at = models.DateTimeField(null=True)
    selfie_shredded_at = models.DateTimeField(null=True)  # earlier than the results' key, see purge
    tombstoned_at = models.DateTimeField(null=True)
    versions_deleted = models.PositiveIntegerField(default=0)
    uploads_deleted = models.PositiveIntegerField(default=0)
    late_writes = models.PositiveIntegerField(default=0)  # objects that the second look found

    objects = OrderQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at",)
        indexes = (
            models.Index(fields=("state", "expires_at")),
            models.Index(fields=("state", "purge_not_before")),
        )
        constraints = (
            models.CheckConstraint(condition=Q(state__in=OrderState.values), name="order_state_is_known"),
            models.CheckConstraint(condition=Q(tier__in=list(TIERS)), name="order_tier_is_known"),
            models.CheckConstraint(
                condition=Q(created_at__lt=F("expires_at")) & Q(expires_at__lt=F("not_after")),
                name="order_times_are_in_order",
            ),
            models.CheckConstraint(
                condition=~Q(state=OrderState.REFUSED) | ~Q(refusal_code=""), name="refused_order_has_a_code"
            ),
            models.CheckConstraint(
                condition=~Q(state=OrderState.PURGED)
                | Q(
                    token_sha256__isnull=True,
                    seed_root__isnull=True,
                    upload_id__isnull=True,
                    shredded_at__isnull=False,
                    absent_again_at__isnull=False,
                ),
                name="purged_order_is_scrubbed",
            ),
        )

    def __str__(self) -> str:
        return f"{self.tier} order {self.id}"


class ConsentRecord(models.Model):
    """Which text was agreed to, and when; written before the photo is looked at."""

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="consent")
    text_version = models.CharField(max_length=20)
    text_sha256 = models.CharField(max_length=64)
    is_adult = models.BooleanField()
    given_at = models.DateTimeField()

    class Meta:
        constraints = (models.CheckConstraint(condition=Q(is_adult=True), name="consent_is_by_an_adult"),)

    def __str__(self) -> str:
        return f"consent {self.text_version} of order {self.order_id}"


class LicenceGrant(models.Model):
    """What may be done with an order's pictures: the whole LICENCE.txt, frozen when the order was placed.

    It outlives the order, as the pictures do; it names nobody.
    """

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="licence")
    version = models.CharField(max_length=20)
    text = models.TextField()
    sha256 = models.CharField(max_length=64)  # of the text as UTF-8, which is what the ZIP holds
    granted_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"licence {self.version} of order {self.order_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Immutable(f"licence grant {self.pk} is immutable")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Immutable(f"licence grant {self.pk} is immutable")


class OrderKey(models.Model):
    """A wrapped order key. Deleting the row is access control; destroying the epoch key is erasure."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="keys")
    role = models.PositiveSmallIntegerField()
    wrapped = models.BinaryField(max_length=200)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("order", "role"), name="one_key_per_order_and_role"),)

    def __str__(self) -> str:
        return f"key {self.role} of order {self.order_id}"


class StoredObject(models.Model):
    """A sealed object that may exist in the blob store; the row is written before the object."""

    class State(models.TextChoices):
        INTENDED = "intended"
        STORED = "stored"
        DELETED = "deleted"  # the object is gone; the row is kept for the receipt's counts and digest

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="stored_objects")
    kind = models.PositiveSmallIntegerField()
    index = models.PositiveIntegerField()
    generation = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State, default=State.INTENDED)
    size_bytes = models.PositiveBigIntegerField(default=0)
    sha256 = models.CharField(max_length=64, default="", blank=True)  # of the ciphertext
    created_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(state="intended") | (Q(state__in=("stored", "deleted")) & ~Q(sha256="")),
                name="stored_object_has_a_hash",
            ),
        )

    def __str__(self) -> str:
        return f"object {self.id}"


class Selfie(models.Model):
    """The customer's photo, re-made from pixels alone and sealed under the order's selfie key."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="selfies")
    stored = models.OneToOneField(StoredObject, on_delete=models.CASCADE)
    index = models.PositiveSmallIntegerField()
    received_at = models.DateTimeField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("order", "index"), name="one_selfie_per_place"),)

    def __str__(self) -> str:
        return f"selfie {self.index} of order {self.order_id}"
