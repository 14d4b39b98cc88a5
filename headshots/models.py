"""Rows, constraints and querysets; no rules. Services are the only writers."""

import uuid
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final, NoReturn

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q

from headshots.states import LIVE_STATES, ORDER_MOVES, SHOT_MOVES, OrderState, ShotState, sources_of
from headshots.tiers import TIERS
from pipelines import presets
from pipelines.gate import LIKENESSES, LOWEST_RANK
from pipelines.presets import ExtraControl, Lora, PresetError, StylePreset


def _choices(values: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(value, value) for value in values]


def _bounds(low: float, high: float) -> list[Any]:
    return [MinValueValidator(low), MaxValueValidator(high)]


def _between(field: str, bounds: tuple[float, float]) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(**{f"{field}__gte": bounds[0], f"{field}__lte": bounds[1]}),
        name=f"{field}_within_bounds",
        violation_error_message=f"{field} must be between {bounds[0]:g} and {bounds[1]:g}",
    )


class Immutable(RuntimeError):
    """Our own code tried to change or delete a row that must stay as it was written."""


class Style(models.Model):
    """A look that customers can choose; its words and numbers stand in its versions."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        PUBLISHED = "published"
        RETIRED = "retired"

    slug = models.SlugField(unique=True, max_length=40)
    name = models.CharField(max_length=60)
    summary = models.CharField(max_length=200)
    position = models.PositiveSmallIntegerField(default=100)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    current = models.ForeignKey(
        "StyleVersion", on_delete=models.PROTECT, related_name="+", null=True, blank=True, editable=False
    )
    published_at = models.DateTimeField(null=True, editable=False)  # when it was last switched on
    switched_off_at = models.DateTimeField(null=True, editable=False)  # by the service, for failing

    class Meta:
        ordering = ("position", "slug")
        constraints = (
            models.CheckConstraint(
                condition=~Q(status="published") | Q(current__isnull=False),
                name="published_style_has_a_version",
            ),
            models.CheckConstraint(
                condition=Q(status__in=("draft", "published", "retired")), name="style_status_is_known"
            ),
        )

    def __str__(self) -> str:
        return self.name


class StyleVersion(models.Model):
    """One immutable state of a style. Orders point here, so an edit never changes what was bought."""

    style = models.ForeignKey(Style, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    subject = models.CharField(max_length=300)
    wardrobe = models.CharField(max_length=300)
    setting = models.CharField(max_length=300)
    lighting = models.CharField(max_length=300)
    lens = models.CharField(max_length=300)
    mood = models.CharField(max_length=300)
    composition = models.CharField(max_length=300)
    negative_prompt = models.CharField(max_length=600)
    guidance_scale = models.FloatField(validators=_bounds(*presets.GUIDANCE_SCALE))
    num_inference_steps = models.PositiveSmallIntegerField(validators=_bounds(*presets.NUM_INFERENCE_STEPS))
    scheduler = models.CharField(max_length=20, choices=_choices(presets.SCHEDULERS))
    ip_adapter_scale = models.FloatField(validators=_bounds(*presets.CONDITIONING_SCALE))
    controlnet_conditioning_scale = models.FloatField(validators=_bounds(*presets.CONDITIONING_SCALE))
    guidance_method = models.CharField(max_length=20, choices=_choices(presets.GUIDANCE_METHODS))
    framing = models.CharField(max_length=20, choices=_choices(presets.FRAMINGS))
    negative_identity = models.CharField(
        max_length=20, choices=_choices(presets.NEGATIVE_IDENTITIES), default="noise"
    )
    control_guidance_end = models.FloatField(validators=_bounds(*presets.CONTROL_GUIDANCE_END), default=0.9)
    is_face_masked = models.BooleanField(default=True)
    loras = models.JSONField(default=list, blank=True)  # [{"name": ..., "weight": ...}]
    extra_control = models.JSONField(null=True, blank=True)  # the fields of presets.ExtraControl
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150)

    class Meta:
        ordering = ("style", "-number")
        constraints = (
            models.UniqueConstraint(fields=("style", "number"), name="style_version_number_is_unique"),
            _between("guidance_scale", presets.GUIDANCE_SCALE),
            _between("num_inference_steps", presets.NUM_INFERENCE_STEPS),
            _between("ip_adapter_scale", presets.CONDITIONING_SCALE),
            _between("controlnet_conditioning_scale", presets.CONDITIONING_SCALE),
            _between("control_guidance_end", presets.CONTROL_GUIDANCE_END),
        )

    def __str__(self) -> str:
        return f"{self.style.slug} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise Immutable(f"style version {self.pk} is immutable; create a new one")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Immutable(f"style version {self.pk} is immutable")

    def preset(self) -> StylePreset:
        """The version as the pipeline takes it; the way back from `columns_of`.

        Raises PresetError if a bound was tightened since, or a JSON column holds something else.
        """
        fields = {name: getattr(self, name) for name in PRESET_FIELDS}
        try:
            fields["loras"] = tuple(Lora(**entry) for entry in self.loras)
            fields["extra_control"] = (
                None if self.extra_control is None else ExtraControl(**self.extra_control)
            )
            return StylePreset(slug=self.style.slug, **fields)
        except TypeError as error:  # a missing, unknown or mistyped entry
            raise PresetError(f"style version {self.pk} holds no valid preset: {error}") from error


PRESET_FIELDS: Final = (
    *presets.PROMPT_PARTS,
    "negative_prompt",
    "guidance_scale",
    "num_inference_steps",
    "scheduler",
    "ip_adapter_scale",
    "controlnet_conditioning_scale",
    "guidance_method",
    "framing",
    "negative_identity",
    "control_guidance_end",
    "is_face_masked",
    "loras",
    "extra_control",
)


def columns_of(preset: StylePreset) -> dict[str, Any]:
    """The columns of a StyleVersion that hold `preset`; `StyleVersion.preset` is the way back."""
    columns = {name: getattr(preset, name) for name in PRESET_FIELDS}
    columns["loras"] = [asdict(lora) for lora in preset.loras]
    columns["extra_control"] = None if preset.extra_control is None else asdict(preset.extra_control)
    return columns


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


class ShotQuerySet(models.QuerySet["Shot"]):
    def move(self, target: ShotState, **changes: Any) -> int:
        """Move what may move to `target`; the count says how many did."""
        return self.filter(state__in=sources_of(SHOT_MOVES, target)).update(state=target, **changes)


class Shot(models.Model):
    """One picture to make: a row of the queue, claimed under a lease, delivered once."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="shots")
    index = models.PositiveSmallIntegerField()  # 1-based, as customers count
    style_version = models.ForeignKey(StyleVersion, on_delete=models.PROTECT, related_name="shots")
    seed = models.BigIntegerField()
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
    amount_cents = models.PositiveIntegerField()
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
    """How many free orders one network placed in one hour or day. No address, and nothing to find one by."""

    digest = models.CharField(primary_key=True, max_length=64)  # of window and network, under the day's salt
    count = models.PositiveIntegerField(default=0)
    ends_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.count} free orders before {self.ends_at:%Y-%m-%d %H:%M:%S}"
