"""The queue: one row for each picture to make."""

from typing import Any

from django.db import models
from django.db.models import Q

from headshots.models.orders import Order, StoredObject
from headshots.models.styles import StyleVersion
from headshots.states import SHOT_MOVES, UNDECIDED_STATES, ShotState, sources_of
from pipelines.gate import LIKENESSES, LOWEST_RANK


class ShotQuerySet(models.QuerySet["Shot"]):
    def move(self, target: ShotState, **changes: Any) -> int:
        """Move what may move to `target`; the count says how many did."""
        return self.filter(state__in=sources_of(SHOT_MOVES, target)).update(state=target, **changes)

    def planned(self) -> "ShotQuerySet":
        """The shots that orders began with; the others are redos, which change no promise."""
        return self.filter(replaces=None)


class Shot(models.Model):
    """One picture to make: a row of the queue, claimed under a lease, delivered once."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="shots")
    index = models.PositiveSmallIntegerField()  # 1-based, as customers count
    style_version = models.ForeignKey(StyleVersion, on_delete=models.PROTECT, related_name="shots")
    seed = models.BigIntegerField()
    # the delivered picture whose place this one takes if the customer chooses it; see services.redo
    replaces = models.ForeignKey("self", on_delete=models.CASCADE, null=True, related_name="redos")
    state = models.CharField(max_length=10, choices=ShotState, default=ShotState.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    lease_token = models.PositiveIntegerField(default=0)  # fencing: raised at each claim
    lease_owner = models.CharField(max_length=80, default="", blank=True)
    lease_until = models.DateTimeField(null=True)
    not_before = models.DateTimeField()
    work = models.PositiveIntegerField(default=0)  # in rows through the denoiser, see services.fair_queue
    virtual_offset = models.PositiveBigIntegerField(default=0)  # its finish after its order's virtual start
    virtual_finish = models.PositiveBigIntegerField(null=True)  # its place, from the start of its order on
    error_code = models.CharField(max_length=40, default="", blank=True)
    headshot = models.OneToOneField(StoredObject, on_delete=models.SET_NULL, null=True, related_name="+")
    preview = models.OneToOneField(StoredObject, on_delete=models.SET_NULL, null=True, related_name="+")
    width = models.PositiveSmallIntegerField(null=True)
    height = models.PositiveSmallIntegerField(null=True)
    render_seconds = models.FloatField(null=True)
    finished_at = models.DateTimeField(null=True)
    # what the quality gate said, and all that is kept of it; see pipelines.gate
    likeness = models.CharField(max_length=20, default="", blank=True)
    rank = models.PositiveSmallIntegerField(default=0)

    objects = ShotQuerySet.as_manager()

    class Meta:
        ordering = ("order", "index")
        indexes = (
            models.Index(fields=("state", "virtual_finish")),
            models.Index(fields=("state", "finished_at")),
        )
        constraints = (
            models.UniqueConstraint(fields=("order", "index"), name="one_shot_per_place"),
            models.UniqueConstraint(
                fields=("replaces",),
                condition=Q(state__in=UNDECIDED_STATES),
                name="one_open_redo_per_picture",
            ),
            models.CheckConstraint(condition=Q(state__in=ShotState.values), name="shot_state_is_known"),
            models.CheckConstraint(
                condition=~Q(state=ShotState.LEASED) | Q(lease_until__isnull=False),
                name="leased_shot_has_a_lease",
            ),
            models.CheckConstraint(
                condition=~Q(state=ShotState.FAILED) | ~Q(error_code=""), name="failed_shot_has_a_code"
            ),
            models.CheckConstraint(condition=Q(likeness__in=("", *LIKENESSES)), name="likeness_is_a_word"),
            models.CheckConstraint(condition=Q(rank__lte=LOWEST_RANK), name="rank_is_coarse"),
        )

    def __str__(self) -> str:
        return f"shot {self.index} of order {self.order_id}"


class QueueMark(models.Model):
    """A virtual time of the queue: its clock, or where the newest order of a tier ends. Only ever raised."""

    name = models.CharField(primary_key=True, max_length=20)
    virtual_time = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.name} at {self.virtual_time}"
