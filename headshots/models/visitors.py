"""What is counted of those who place orders, none of whom it names."""

import uuid

from django.db import models


class SpentChallenge(models.Model):
    """A proof of work that was used; kept until it would have run out, so that it is used once."""

    signature = models.CharField(primary_key=True, max_length=64)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"challenge used before {self.expires_at:%Y-%m-%d %H:%M:%S}"


class NetworkSalt(models.Model):
    """The salt of one UTC day, wrapped by an hour's key: after that day nobody can tell a network's counts.

    It takes the place of an order's key in the vault, under `id`; see vault/FORMAT.md.
    """

    day = models.DateField(primary_key=True)
    id = models.UUIDField(default=uuid.uuid4)
    epoch = models.PositiveIntegerField()
    wrapped = models.BinaryField(max_length=200)

    def __str__(self) -> str:
        return f"salt of {self.day}"


class NetworkCount(models.Model):
    """How many orders of a tier one network placed in an hour or day, or one mail address was given for in a
    day. Nothing tells whose network or address it was."""

    digest = models.CharField(primary_key=True, max_length=64)  # of what is counted; day's salt
    count = models.PositiveIntegerField(default=0)
    ends_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.count} orders before {self.ends_at:%Y-%m-%d %H:%M:%S}"
