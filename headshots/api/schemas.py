"""What goes over the wire; each field is described once, here, and appears so in the OpenAPI file."""

import uuid
from datetime import datetime
from typing import Literal

from ninja import Field, Schema

from pipelines.gate import LIKENESSES

OrderStateName = Literal["assessing", "refused", "awaiting_payment", "queued", "rendering", "ready", "failed"]


class ErrorOut(Schema):
    """The one shape of every error."""

    code: str = Field(description="stable, for programs")
    message: str = Field(description="one plain sentence, for people")
    advice: str = Field(description="what to do about it")


class StyleOut(Schema):
    slug: str
    name: str
    summary: str
    tiers: list[str] = Field(description="the tiers that include it")
    version: int = Field(description="an order keeps the version it was placed with")


class TierOut(Schema):
    slug: str
    name: str
    headshots: int
    long_edge: int = Field(description="pixels of each picture's longer side")
    is_watermarked: bool = Field(description="whether the pictures carry a visible mark")
    price_cents: int = Field(description="for the whole pack, once")
    currency: str
    licence: str
    not_on_sale: str | None = Field(None, description="why it cannot be ordered here yet; null when it can")


class ChallengeDataOut(Schema):
    steps: int = Field(description="the solution's counter is smaller")


class ChallengeParametersOut(Schema):
    algorithm: Literal["PBKDF2/SHA-256"]
    nonce: str
    salt: str
    cost: int = Field(description="rounds of one derivation")
    keyLength: int = Field(description="bytes")
    keyPrefix: str = Field(description="what the solution's derived key begins with")
    keySignature: str
    expiresAt: int = Field(description="seconds since 1970")
    data: ChallengeDataOut


class ChallengeOut(Schema):
    """Sent back as it is, with its solution."""

    parameters: ChallengeParametersOut
    signature: str


class LinksOut(Schema):
    self: str
    archive: str = Field(description="ZIP of all finished pictures")
    export: str = Field(description="ZIP of everything held about the order, at any time")
    site: str = Field(description="the order's page; open it with the private link")
    private_link: str | None = Field(
        None, description="opens the order in a browser; shown once, at creation"
    )
    checkout: str | None = Field(
        None, description="while the order waits for its payment: `POST` here for the page where it is paid"
    )
    receipt: str = Field(description="answers once the deletion has begun")


class RedoOut(Schema):
    """A picture that is made, or was made, in the place of a delivered one; gone once one is chosen."""

    index: int = Field(description="the new picture's number in its address")
    state: Literal["waiting", "rendering", "ready", "failed"] = Field(
        description="`ready` waits for a `keep` of one of the two; `failed` costs nothing, ask again"
    )
    url: str | None = Field(None, description="the JPEG, once it is ready")
    preview_url: str | None = Field(None, description="the same, 448 pixels wide")
    likeness: str | None = Field(None, description="as of a delivered picture")


class ShotOut(Schema):
    index: int = Field(description="the picture's number in its address, which stays; spares have one, too")
    place: int | None = Field(
        None,
        description="counted from the best, 1; null until done; may change until the order is ready, and "
        "when a redo is chosen",
    )
    style: str
    state: Literal["waiting", "rendering", "done", "failed"]
    width: int | None = None
    height: int | None = None
    url: str | None = Field(None, description="the JPEG, once it is done")
    preview_url: str | None = Field(None, description="the same, 448 pixels wide")
    likeness: str | None = Field(
        None,
        description=f"{', '.join(LIKENESSES)}: judged by a face recogniser that had no part in making it; "
        "null until done, and where the engine measures none",
    )
    redo: RedoOut | None = Field(None, description="the last redo of it, until one of the two is chosen")
    can_redo: bool = Field(False, description="whether it can be made again now")


class OrderOut(Schema):
    id: uuid.UUID
    state: OrderStateName = Field(
        description="while a picture is made again, a ready order is `queued` and `rendering` once more"
    )
    tier: str
    headshots: int
    done: int = Field(description="delivered")
    compared: int = Field(description="passed, and wait until the best are certain")
    failed: int = Field(description="promised pictures that will not come any more")
    percent: int
    created_at: datetime
    expires_at: datetime = Field(description="after this moment nothing of the order can be read")
    seconds_left: int
    estimated_start_at: datetime | None = Field(
        None, description="an estimate, rounded; null once the order ended, or while nothing is known"
    )
    estimated_ready_at: datetime | None = Field(None, description="the same for its last picture")
    engine: str = Field(
        description="`preview` pictures are composed of the selfie's own pixels, not generated"
    )
    problem: ErrorOut | None = Field(None, description="why the photo was refused; it is erased by then")
    refunded_cents: int
    redos_left: int = Field(description="how many pictures can still be made again")
    redo_until: datetime | None = Field(
        None, description="when that ends; null until all pictures are there, and once the photo is gone"
    )
    receipt_id: str
    shots: list[ShotOut] = Field(description="as many as promised; delivered ones first, the best before")
    links: LinksOut


class OrderCreated(OrderOut):
    token: str = Field(description="the key to this order; shown only now, we keep its SHA-256")


class CheckoutOut(Schema):
    url: str | None = Field(
        description="the payment provider's page, to be opened in a browser; null when nothing is left to do "
        "there, because it was paid, or because the provider still works on it: poll the order"
    )


class ReceiptOut(Schema):
    id: str
    state: Literal["purging", "purged"]
    keys_destroyed_at: datetime | None
    objects_deleted_at: datetime | None
    absent_at: datetime | None = Field(description="first look that found nothing")
    absent_again_at: datetime | None = Field(description="second look, some time later")
    epoch_key_gone_by: datetime
    text: str | None = Field(description="the receipt, once both looks found nothing")


class DeletionOut(Schema):
    receipt_id: str
    receipt: str = Field(description="where the receipt appears")
