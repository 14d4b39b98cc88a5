"""The API's operations: parse, call one service, present."""

import uuid
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Annotated, Any, TypeVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, reverse
from ninja import File, Form, Header, NinjaAPI, Status
from ninja.errors import ValidationError
from ninja.files import UploadedFile
from ninja.security import HttpBearer

from headshots.api.presenting import absolute, order_out
from headshots.api.schemas import (
    ChallengeOut,
    CheckoutOut,
    DeletionOut,
    ErrorOut,
    OrderCreated,
    OrderOut,
    ReceiptOut,
    StyleOut,
    TierOut,
)
from headshots.exceptions import Refusal, retry_headers, text_of
from headshots.models import Order
from headshots.services import (
    challenges,
    checkouts,
    clock,
    delivery,
    export,
    orders,
    purge,
    redo,
    sales,
    styles,
)
from headshots.services.admission import Visitor
from headshots.services.checkouts import Pages
from headshots.services.consent import Consent
from headshots.tiers import CURRENCY, TIERS
from headshots.vault.envelope import Kind
from pipelines.errors import Refused, Retryable


def _dressed(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """The view, with no answer kept by any cache, and a wrong method refused in the one error shape.

    ninja answers a wrong method before any exception handler could.
    """

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        if response.status_code == 405:
            allowed = ", ".join(sorted(response["Allow"].split(", ")))
            response = error_response(Refusal("method_not_allowed"))
            response["Allow"] = allowed
        response.headers.setdefault("Cache-Control", "no-store, private")
        return response

    return answer


class _Api(NinjaAPI):
    @property
    def urls(self) -> tuple[list[URLResolver | URLPattern], str, str]:
        patterns, app_name, namespace = super().urls
        for pattern in patterns:
            if isinstance(pattern, URLPattern):
                pattern.callback = _dressed(pattern.callback)
        return patterns, app_name, namespace


api = _Api(
    title="Headshots",
    version="1",
    urls_namespace="api",
    description=(
        "One selfie in, studio portraits out, nothing left after 24 hours.\n\n"
        "`POST /orders` answers with a token; send it as `Authorization: Bearer …` with every other call. "
        "A free order brings a solved challenge of `GET /challenge`. A network may place a few orders in an "
        "hour: the status 429 says in `Retry-After` when the next. "
        "Poll `GET /orders/{id}` every two seconds until `state` is `ready`, `refused` or `failed`. A "
        "premium order stops at `awaiting_payment` once its photo is found fine: `POST "
        "/orders/{id}/checkout` answers with the page where it is paid; then poll on. "
        "Every error has the shape `{code, message, advice}`."
    ),
)

_ERRORS = dict.fromkeys((400, 403, 408, 409, 413, 415, 422, 429, 503), ErrorOut)
_PRIVATE = dict.fromkeys((401, 404, 503), ErrorOut)
_FIELD_CODES = {
    "selfie": "selfie_missing",
    "consent": "consent_missing",
    "tier": "unknown_tier",
    "email": "bad_address",
    "order_id": "order_not_found",
    "index": "headshot_not_found",
}


def _file(media_type: str) -> dict[str, Any]:
    """How an operation that answers with a file is described: no schema of ours, the bytes themselves."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"responses": {200: {"content": content}}}


class OrderToken(HttpBearer):
    """Passes the bearer token on; whether it opens an order is the service's question."""

    def authenticate(self, request: HttpRequest, token: str) -> str:
        return token

    def __call__(self, request: HttpRequest) -> Any:
        token = super().__call__(request)
        if not token:
            raise Refusal("token_missing")
        return token


_token = OrderToken()
ResponseT = TypeVar("ResponseT", HttpResponse, StreamingHttpResponse)


def error_response(error: Refused) -> JsonResponse:
    """The one error shape, for an error with a code of `headshots.exceptions.TEXTS`."""
    text = text_of(error)
    shape = {"code": error.code, "message": text.message, "advice": text.advice}
    return JsonResponse(shape, status=text.status, headers=retry_headers(text))


@api.exception_handler(Refused)
def _refused(request: HttpRequest, error: Refused) -> HttpResponse:
    return error_response(error)


@api.exception_handler(Retryable)
def _busy(request: HttpRequest, error: Retryable) -> HttpResponse:
    return error_response(Refusal("busy"))


@api.exception_handler(ValidationError)
def _invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    fields = [str(part) for problem in error.errors for part in problem["loc"]]
    code = next((_FIELD_CODES[field] for field in fields if field in _FIELD_CODES), "malformed_request")
    return error_response(Refusal(code))


@api.get("/styles", response=list[StyleOut], summary="The styles on offer")
def list_styles(request: HttpRequest) -> list[StyleOut]:
    return [
        StyleOut(
            slug=style.slug,
            name=style.name,
            summary=style.summary,
            tiers=[t.slug for t in TIERS.values() if t.style_slugs is None or style.slug in t.style_slugs],
            version=style.current.number if style.current else 0,
        )
        for style in styles.published_everywhere()
    ]


@api.get("/tiers", response=list[TierOut], summary="The packs, and whether they are on sale here")
def list_tiers(request: HttpRequest) -> list[TierOut]:
    return [
        TierOut(
            slug=tier.slug,
            name=tier.name,
            headshots=tier.headshots,
            long_edge=tier.long_edge,
            is_watermarked=tier.is_watermarked,
            price_cents=tier.price_cents,
            currency=CURRENCY,
            licence=tier.licence,
            not_on_sale=sales.reason_against(tier) or None,
        )
        for tier in TIERS.values()
    ]


@api.get("/challenge", response=ChallengeOut, summary="A task to solve for a free order")
def create_challenge(request: HttpRequest) -> dict[str, Any]:
    """An ALTCHA challenge, version 2; every client and library of ALTCHA's solves it.

    Derive PBKDF2-HMAC-SHA-256 keys of `keyLength` bytes, in `cost` rounds, from the password `nonce` followed
    by a counter in four bytes, highest first, and from `salt`. Count up from 0 until a key begins with
    `keyPrefix`; that comes before `data.steps`. The field `altcha` of `POST /orders` is the Base64 of
    `{"challenge": this answer, "solution": {"counter": …, "derivedKey": …}}`. Bytes are in hexadecimal.
    """
    return challenges.create(clock.now())


@api.post("/orders", response={201: OrderCreated, **_ERRORS}, summary="Place an order with one selfie")
def place_order(
    request: HttpRequest,
    selfie: Annotated[UploadedFile, File(description="JPEG, HEIC, PNG or WebP; 25 MB, 50 megapixels")],
    consent: Annotated[bool, Form(description="you hold the consent, as worded on the site, of an adult")],
    tier: Annotated[str, Form(description="`free` or `premium`")] = "free",
    chosen: Annotated[
        list[str],
        Form(alias="styles", description="style slugs, repeated or comma-separated; empty: all of the tier"),
    ] = [],  # noqa: B006 (ninja copies it)
    email: Annotated[
        str,
        Form(
            description="where mails about the order go, for a premium one once it is paid; deleted with it; "
            "empty: none are sent"
        ),
    ] = "",
    altcha: Annotated[
        str,
        Form(description="for a free order: a solved challenge of `GET /challenge`, a new one for every try"),
    ] = "",
    idempotency_key: Annotated[
        uuid.UUID | None,
        Header(alias="Idempotency-Key", description="a UUID; a second order with it is refused"),
    ] = None,
) -> Status[OrderCreated]:
    """The photo is cleaned, sealed and assessed. The answer holds the token that opens the order, once."""
    now = clock.now()
    placed = orders.place(
        raw=selfie.read(),
        tier_slug=tier,
        style_slugs=[slug.strip() for entry in chosen for slug in entry.split(",") if slug.strip()],
        agreed=Consent(is_given=consent, is_adult=consent),
        upload_id=idempotency_key,
        address=email,
        visitor=Visitor.of(request.META, altcha),
        now=now,
    )
    shown = order_out(placed.order, now)
    shown.links.private_link = f"{settings.SITE_URL}{reverse('open')}#{placed.token}"
    return Status(201, OrderCreated(**shown.dict(), token=placed.token))


@api.get(
    "/orders/{order_id}", response={200: OrderOut, **_PRIVATE}, auth=_token, summary="Where an order stands"
)
def show_order(request: HttpRequest, order_id: uuid.UUID) -> OrderOut:
    now = clock.now()
    return order_out(_order(request, order_id, now), now)


@api.post(
    "/orders/{order_id}/checkout",
    response={200: CheckoutOut, 409: ErrorOut, **_PRIVATE},
    auth=_token,
    summary="The page where an order is paid",
)
def open_checkout(request: HttpRequest, order_id: uuid.UUID) -> CheckoutOut:
    """The same as the button of the site's checkout, once `state` is `awaiting_payment`. Asked again, it
    answers with the same page as long as that can be paid, and with a new one after.

    The provider leads back to the order's page on the site, which shows the order to a browser that opened
    its private link before. The order starts in any case.
    """
    now = clock.now()
    order = _order(request, order_id, now)
    return CheckoutOut(url=checkouts.hand_over(order, Pages.of(order), now) or None)


@api.get(
    "/orders/{order_id}/headshots/{index}",
    response={200: None, 400: ErrorOut, 403: ErrorOut, **_PRIVATE},
    auth=_token,
    summary="One finished picture, as JPEG",
    openapi_extra=_file("image/jpeg"),
)
def download_headshot(
    request: HttpRequest, order_id: uuid.UUID, index: int, preview: bool = False
) -> HttpResponse:
    """`preview=true` gives the same picture 448 pixels wide."""
    now = clock.now()
    kind = Kind.PREVIEW if preview else Kind.HEADSHOT
    order = _order(request, order_id, now)
    jpeg = delivery.open_headshot(order, index, kind, now)
    name = f"headshot-{delivery.place_of(order, index):02d}.jpg"
    return _private(HttpResponse(jpeg, content_type="image/jpeg"), name)


@api.post(
    "/orders/{order_id}/headshots/{index}/redo",
    response={202: OrderOut, 403: ErrorOut, 409: ErrorOut, **_PRIVATE},
    auth=_token,
    summary="Make one picture again, with a fresh seed",
)
def redo_headshot(request: HttpRequest, order_id: uuid.UUID, index: int) -> Status[OrderOut]:
    """The old one stays until the new one is chosen. `redos_left` of the order says how often; one that fails
    does not count. Poll the order until the picture's `redo` is `ready` or `failed`.
    """
    now = clock.now()
    redo.ask(_order(request, order_id, now), index, now)
    return Status(202, order_out(_order(request, order_id, now), now))


@api.post(
    "/orders/{order_id}/headshots/{index}/keep",
    response={200: OrderOut, 403: ErrorOut, 409: ErrorOut, **_PRIVATE},
    auth=_token,
    summary="Choose one of two pictures: a delivered one or its redo",
)
def keep_headshot(request: HttpRequest, order_id: uuid.UUID, index: int) -> OrderOut:
    """The other one is deleted. Choosing the same one again changes nothing."""
    now = clock.now()
    redo.keep(_order(request, order_id, now), index, now)
    return order_out(_order(request, order_id, now), now)


@api.get(
    "/orders/{order_id}/archive.zip",
    response={200: None, 403: ErrorOut, **_PRIVATE},
    auth=_token,
    summary="All finished pictures and the licence, as a ZIP",
    openapi_extra=_file("application/zip"),
)
def download_archive(request: HttpRequest, order_id: uuid.UUID) -> StreamingHttpResponse:
    now = clock.now()
    pieces = delivery.stream_archive(_order(request, order_id, now), now)
    return _private(StreamingHttpResponse(pieces, content_type="application/zip"), "headshots.zip")


@api.get(
    "/orders/{order_id}/export.zip",
    response={200: None, **_PRIVATE},
    auth=_token,
    summary="Everything held about an order, as a ZIP",
    openapi_extra=_file("application/zip"),
)
def export_order(request: HttpRequest, order_id: uuid.UUID) -> StreamingHttpResponse:
    """In every state: `data.json`, the cleaned photo until its key is destroyed, and all pictures."""
    now = clock.now()
    pieces = export.stream(_order(request, order_id, now), now)
    return _private(StreamingHttpResponse(pieces, content_type="application/zip"), "everything.zip")


@api.delete(
    "/orders/{order_id}",
    response={202: DeletionOut, **_PRIVATE},
    auth=_token,
    summary="Delete everything now",
)
def delete_order(request: HttpRequest, order_id: uuid.UUID) -> Status[DeletionOut]:
    """Keys are destroyed and objects deleted before this answers; the receipt follows after a second look."""
    now = clock.now()
    receipt_id = purge.request(_order(request, order_id, now), actor="customer", now=now)
    return Status(202, DeletionOut(receipt_id=receipt_id, receipt=absolute("api:show_receipt", receipt_id)))


@api.get(
    "/receipts/{receipt_id}",
    response={200: ReceiptOut, 404: ErrorOut},
    summary="A deletion's receipt",
    openapi_extra={"responses": {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}},
)
def show_receipt(request: HttpRequest, receipt_id: str) -> ReceiptOut | HttpResponse:
    """How far the deletion is. With `Accept: text/plain` the signed receipt alone, once there is one."""
    order, receipt = purge.find_deletion(receipt_id, clock.now())
    if request.get_preferred_type(["application/json", "text/plain"]) == "text/plain":
        if receipt is None:
            raise Refusal("receipt_not_found")
        headers = {"Content-Type": "text/plain; charset=utf-8", "Vary": "Accept"}
        return HttpResponse(receipt.text, headers=headers)
    return ReceiptOut(
        id=order.receipt_id,
        state="purged" if receipt else "purging",
        keys_destroyed_at=order.shredded_at,
        objects_deleted_at=order.swept_at,
        absent_at=order.absent_at,
        absent_again_at=order.absent_again_at,
        epoch_key_gone_by=order.not_after,
        text=receipt.text if receipt else None,
    )


def _order(request: HttpRequest, order_id: uuid.UUID, now: datetime) -> Order:
    return orders.find(order_id, getattr(request, "auth"), now)  # noqa: B009 (ninja adds it)


def _private(response: ResponseT, file_name: str) -> ResponseT:
    response["Cache-Control"] = "no-store, private"
    response["Content-Disposition"] = f'attachment; filename="{file_name}"'
    return response
