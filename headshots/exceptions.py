"""Errors a customer may meet: each has a stable code, a plain sentence, advice and an HTTP status.

The pipeline raises `pipelines.errors.Refused(code)`; the services raise `Refusal(code)` (a `Refused` itself);
both are turned into an answer by the one table below.
"""

from dataclasses import dataclass, replace
from typing import Final

from pipelines.errors import Refused


class Refusal(Refused):
    """A request that is refused and has changed nothing. Pages and API show `TEXTS[code]`."""


class NotFound(Refusal):
    """The order is unknown, somebody else's, expired or deleted; which of these is never told."""

    def __init__(self) -> None:
        super().__init__("order_not_found")


class TooMany(Refusal):
    """A network has had its orders of a tier; more can be placed in `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: int, code: str = "too_many") -> None:
        super().__init__(code)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class RefusalText:
    status: int
    message: str
    advice: str
    retry_after_seconds: int | None = None


TEXTS: Final[dict[str, RefusalText]] = {
    # the request
    "consent_missing": RefusalText(
        400, "We need your consent before we may look at your photo.", "Read the note and tick the box."
    ),
    "selfie_missing": RefusalText(
        400, "No photo arrived.", "Choose one photo of yourself and send it again."
    ),
    "incomplete_upload": RefusalText(
        400,
        "The connection broke before the whole photo arrived.",
        "Check your connection and send it again.",
    ),
    "upload_too_slow": RefusalText(
        408,
        "Your connection was too slow, or stood still, before the whole photo arrived.",
        "Send it again over a better connection, or send a smaller copy.",
    ),
    "malformed_request": RefusalText(
        400, "The request could not be read.", "Load the page again; for programs, see the API description."
    ),
    "unknown_tier": RefusalText(422, "There is no such tier.", "Choose “free” or “premium”."),
    "unknown_style": RefusalText(422, "There is no such style.", "Choose from the styles we list."),
    "style_not_in_tier": RefusalText(
        422,
        "This style is not part of the tier you chose.",
        "Choose a style of the tier, or the premium tier.",
    ),
    "not_on_sale": RefusalText(
        409,
        "This pack is not on sale here yet.",
        "The networks that make the pictures need a licence for commercial use, and none is recorded here. "
        "The free pack can be ordered as usual.",
    ),
    "challenge_missing": RefusalText(
        403,
        "The free pack needs a proof that your browser worked for it, and none came.",
        "Allow JavaScript for this page and send it again; for programs, see the API description.",
    ),
    "challenge_wrong": RefusalText(
        403,
        "The proof that your browser worked for the free pack is not right.",
        "Send it again: your browser gets a new task. For programs, see the API description.",
    ),
    "challenge_expired": RefusalText(
        403,
        "The proof that your browser worked for the free pack is too old, or was used before.",
        "Send it again: your browser gets a new task. For programs, see the API description.",
    ),
    "too_many": RefusalText(
        429, "Your network has had its free packs for now.", "Please try again later, or choose premium."
    ),
    "too_many_premium": RefusalText(
        429, "Too many premium packs were ordered from your network for now.", "Please try again later."
    ),
    "too_many_mails": RefusalText(
        429,
        "This e-mail address was given for enough free packs today.",
        "Leave its field empty: the order’s page shows the private link to your pictures.",
    ),
    "bad_address": RefusalText(
        422,
        "This is not an e-mail address that we can write to.",
        "Correct it, or leave the field empty: no order needs one.",
    ),
    "already_ordered": RefusalText(
        409, "This upload already has an order.", "Open the order you have, or upload the photo anew."
    ),
    "not_payable": RefusalText(
        409, "This order is not waiting for a payment.", "Open the order to see its state."
    ),
    "too_late_to_pay": RefusalText(
        409,
        "This order ends too soon: its headshots could not be made in time.",
        "Nothing was charged. Place a new order with the photo.",
    ),
    "payment_unavailable": RefusalText(
        503,
        "We cannot reach our payment provider right now.",
        "Nothing was charged. Please try again in a minute.",
        retry_after_seconds=60,
    ),
    "payment_disputed": RefusalText(
        403,
        "Your bank disputes the payment of this order, so its pictures are held back.",
        "They can be opened again if the dispute ends for us before the order is deleted. "
        "You can delete the order at any time.",
    ),
    "not_refundable": RefusalText(
        409, "Nothing of this is left to give back.", "Look at the order’s payments and refunds."
    ),
    "unknown_reason": RefusalText(422, "There is no such reason for a refund.", "Choose one of the list."),
    "token_missing": RefusalText(
        401,
        "This order is private.",
        "Send its token as “Authorization: Bearer …”, or open your private link.",
    ),
    "order_not_found": RefusalText(
        404, "There is nothing here.", "The link may be wrong, or the order was deleted after its 24 hours."
    ),
    "headshot_not_found": RefusalText(
        404, "This picture does not exist yet.", "Look at the order to see which pictures are finished."
    ),
    "redo_too_early": RefusalText(
        409,
        "The headshots of this order are still being made.",
        "Once all of them are there, each can be made again.",
    ),
    "redo_too_late": RefusalText(
        409,
        "This order ends too soon: the picture could not be made again in time.",
        "Download the pictures you have before they are deleted.",
    ),
    "redo_under_way": RefusalText(
        409,
        "This picture is being made again already, or its new one waits for your choice.",
        "Look at the order, and choose one of the two when both are there.",
    ),
    "redo_limit": RefusalText(
        409,
        "No picture of this order can be made again any more.",
        "You keep all the pictures you have.",
    ),
    "choice_made": RefusalText(
        409,
        "You have chosen the other picture of the two already.",
        "Look at the order: the one you chose is there, the other is deleted.",
    ),
    "receipt_not_found": RefusalText(404, "There is no such receipt.", "Check the receipt number."),
    "page_not_found": RefusalText(404, "This page does not exist.", "Start again from the front page."),
    "form_expired": RefusalText(
        403,
        "This form is too old to be sent.",
        "Go back, load the page again and send it once more. Cookies must be allowed.",
    ),
    "method_not_allowed": RefusalText(
        405, "This cannot be done here.", "Go back and use the page’s own buttons; for programs, see the API."
    ),
    "server_error": RefusalText(
        500, "Something went wrong on our side.", "Nothing was charged for this request. Please try again."
    ),
    "clock_skew": RefusalText(
        503,
        "Our clocks do not agree, so we could not say when your photo will be deleted.",
        "Nothing was stored. We have been told; please try again later.",
    ),
    "restored": RefusalText(
        503,
        "The service is being put in order after a restore and shows nothing meanwhile.",
        "Please try again later. What was deleted stays deleted.",
    ),
    "selfie_deleted": RefusalText(
        409,
        "The photo of this order has been deleted, so no picture can be made anew.",
        "Place a new order with the photo.",
    ),
    "busy": RefusalText(
        503, "We are very busy right now.", "Please try again in a minute.", retry_after_seconds=60
    ),
    "queue_full": RefusalText(
        503,
        "So many orders are waiting that we could not make your headshots in time.",
        "Nothing was charged. Please try again in ten minutes.",
        retry_after_seconds=600,
    ),
    "no_style_left": RefusalText(
        503,
        "None of the styles of this pack can be made at the moment.",
        "Nothing was charged. Please try again later, or choose the other pack.",
        retry_after_seconds=3600,
    ),
    # the file
    "empty_file": RefusalText(
        422, "The file is empty.", "Choose the photo again; it may not have been saved fully."
    ),
    "file_too_large": RefusalText(
        413, "The photo is larger than 25 MB.", "Send a smaller copy, for example as JPEG."
    ),
    "not_an_image": RefusalText(
        415, "This file is not a photo we can read.", "Send a JPEG, HEIC, PNG or WebP picture."
    ),
    "truncated_image": RefusalText(
        422,
        "The photo is damaged or incomplete.",
        "Open it on your device, save it again and send the new copy.",
    ),
    "too_many_pixels": RefusalText(
        422, "The photo has more than 50 megapixels.", "Send a smaller copy; 4 to 12 megapixels are ideal."
    ),
    "image_too_small": RefusalText(
        422, "The photo is smaller than 256 pixels on a side.", "Send the original photo, not a thumbnail."
    ),
    "odd_shape": RefusalText(
        422, "The photo is more than four times as long as it is wide.", "Send an ordinary portrait photo."
    ),
    "animated_image": RefusalText(422, "The file is an animation.", "Send a single still photo."),
    # the face
    "no_face": RefusalText(
        422,
        "We could not find a face in this photo.",
        "Face the camera, take off sunglasses, and find even light from the front.",
    ),
    "several_faces": RefusalText(
        422, "There is more than one face in this photo.", "Use a photo that shows only you."
    ),
    "face_too_small": RefusalText(
        422,
        "Your face is too small in this photo.",
        "Move closer: we need at least 60 pixels between your eyes.",
    ),
    "photo_unusable": RefusalText(
        422,
        "We could not work with this photo.",
        "Please try another photo, taken from the front in even light.",
    ),
    "face_too_dark": RefusalText(
        422, "Your face is too dark in this photo.", "Turn towards a window or a lamp and take it again."
    ),
    "face_too_bright": RefusalText(
        422, "Your face is overexposed in this photo.", "Step out of the direct light and take it again."
    ),
    "face_blurred": RefusalText(
        422, "Your face is blurred in this photo.", "Hold still, wipe the lens and take it again."
    ),
    "face_turned": RefusalText(
        422,
        "Your face is turned away in this photo.",
        "Look straight into the camera, held at the height of your eyes.",
    ),
}


def retry_headers(text: RefusalText) -> dict[str, str]:
    """The header that tells programs when to come back; none where that is not known."""
    return {} if text.retry_after_seconds is None else {"Retry-After": str(text.retry_after_seconds)}


def text_of(error: Refused) -> RefusalText:
    """The words and status for a refusal. A code without words is a bug and raises KeyError."""
    text = TEXTS[error.code]
    if isinstance(error, TooMany):
        seconds = error.retry_after_seconds
        hours, minutes = divmod(-(-seconds // 60), 60)
        wait = f"{hours} h {minutes} min" if hours else f"{minutes} min"
        advice = text.advice.replace("later", f"in {wait}")
        return replace(text, advice=advice, retry_after_seconds=seconds)
    return text
