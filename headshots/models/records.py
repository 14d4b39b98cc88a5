"""What outlives an order: receipts and the audit log; and what the service notes of itself."""

from typing import Any, NoReturn

from django.db import models

from headshots.models.base import Immutable
from headshots.models.orders import Order


class Receipt(models.Model):
    """The text that says what was deleted and when; kept, since it names nobody."""

    id = models.CharField(primary_key=True, max_length=19)
    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="receipt")
    text = models.TextField()
    issued_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.id


class AuditEntry(models.Model):
    """Who did what, in ids and numbers; append-only, and each entry's head covers all entries before it."""

    seq = models.PositiveBigIntegerField(unique=True)  # 1, 2, 3, ... without a gap
    head = models.CharField(max_length=64)  # of the chain after this entry, SHA-256 in hex
    at = models.DateTimeField()  # to the second, as it is hashed
    actor = models.CharField(max_length=150)
    event = models.CharField(max_length=40)
    reference = models.CharField(max_length=60)
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.event} {self.reference}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Immutable(f"audit entry {self.pk} is append-only")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Immutable(f"audit entry {self.pk} is append-only")


class Heartbeat(models.Model):
    """When a part of the service last did its round; /readyz and the operator look here."""

    name = models.CharField(primary_key=True, max_length=40)
    at = models.DateTimeField()
    leased_until = models.DateTimeField(null=True)  # while one process does a round that must not run twice

    def __str__(self) -> str:
        return f"{self.name} at {self.at:%Y-%m-%d %H:%M:%S}"


class Incarnation(models.Model):
    """A time this database was put back from a copy and reconciled; its number marks all that came after."""

    number = models.PositiveIntegerField(primary_key=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"incarnation {self.number}"


class Inspection(models.Model):
    """What the last look at store and rows found; there is one row, and the public page shows it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    at = models.DateTimeField()  # when the look began
    seconds = models.FloatField()
    objects_seen = models.PositiveBigIntegerField()
    orders_seen = models.PositiveBigIntegerField()
    findings = models.JSONField(default=list)  # the fields of verification.Finding, without examples
    blind = models.JSONField(default=list)  # names of the checks that could not look

    def __str__(self) -> str:
        return f"inspection of {self.at:%Y-%m-%d %H:%M:%S}"
