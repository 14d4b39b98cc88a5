"""Receipts and what anybody needs to check them: the keys, the checking page, the audit log's checkpoints."""

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import add_never_cache_headers

from headshots.exceptions import Refusal
from headshots.models import Order, Receipt
from headshots.services import audit, clock, purge, receipts, signing
from headshots.web import pages

NEWEST: Final = 1000  # checkpoints in the list: the last six weeks


@pages.answers("GET")
def receipt(request: HttpRequest, receipt_id: str) -> HttpResponseBase:
    """How far a deletion is, and its receipt once both looks found nothing."""
    order, found = purge.find_deletion(receipt_id, clock.now())
    response = render(request, "web/receipt.html", _receipt_context(order, found))
    response["Clear-Site-Data"] = '"cache"'
    add_never_cache_headers(response)
    return response


def _receipt_context(order: Order, found: Receipt | None) -> dict[str, object]:
    context: dict[str, object] = {"order": order, "receipt": found}
    if found:
        try:
            context["facts"], context["signed_by"] = receipts.read(found.text)
        except ValueError:  # the page says so: the text was altered, or its key is no longer published
            context["is_unverified"] = True
    return context


@pages.answers("GET")
def receipt_text(request: HttpRequest, receipt_id: str) -> HttpResponseBase:
    """The signed receipt as a text file to keep."""
    _, found = purge.find_deletion(receipt_id, clock.now())
    if found is None:
        raise Refusal("receipt_not_found")
    response = _text(found.text)
    response["Content-Disposition"] = 'attachment; filename="deletion-receipt.txt"'
    return response


@pages.answers("GET")
def verify(request: HttpRequest) -> HttpResponseBase:
    """A page that checks receipts in the browser; nothing that is put there is sent to us."""
    return render(request, "web/verify.html", {"keys": signing.published_keys()})


@pages.answers("GET")
def keys(request: HttpRequest) -> HttpResponseBase:
    """Every verifier key that ever signed a receipt, one a line, today's first."""
    return _text("".join(f"{key}\n" for key in signing.published_keys()))


@pages.answers("GET")
def newest_checkpoint(request: HttpRequest) -> HttpResponseBase:
    """The newest signed checkpoint of the audit log."""
    numbers = audit.checkpoint_numbers()
    if not numbers:
        raise Refusal("page_not_found")
    return _text(audit.checkpoint_note(numbers[-1]))


@pages.answers("GET")
def checkpoint(request: HttpRequest, index: int) -> HttpResponseBase:
    """One checkpoint by its number."""
    if index not in audit.checkpoint_numbers():
        raise Refusal("page_not_found")
    return _text(audit.checkpoint_note(index))


@pages.answers("GET")
def checkpoints(request: HttpRequest) -> HttpResponseBase:
    """Where the checkpoints are, newest first, one address a line."""
    newest = reversed(audit.checkpoint_numbers()[-NEWEST:])
    return _text("".join(f"{reverse('checkpoint', args=[number])}\n" for number in newest))


def _text(text: str) -> HttpResponse:
    return HttpResponse(text, content_type="text/plain; charset=utf-8")
