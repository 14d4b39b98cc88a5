"""How a refusal looks: JSON under /api/, beside the form that was sent, a page of its own elsewhere."""

import uuid
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse

from headshots.exceptions import Refusal, RefusalText, retry_headers, text_of
from headshots.services import challenges, consent, sales, styles
from headshots.tiers import TIERS
from headshots.web.forms import UploadFields
from pipelines.errors import Refused, Retryable

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def answers(*methods: str) -> Callable[[View[P]], View[P]]:
    """Let a view answer these methods alone (HEAD goes with GET), and turn what it refuses into a page."""
    allowed = (*methods, "HEAD") if "GET" in methods else methods

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        def answer(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            try:
                if request.method not in allowed:
                    raise Refusal("method_not_allowed")
                return view(request, *args, **kwargs)
            except Refused as refused:
                response = refusal(request, refused)
                if refused.code == "method_not_allowed":
                    response["Allow"] = ", ".join(allowed)
                return response
            except Retryable:
                return refusal(request, Refusal("busy"))

        return answer

    return decorate


def refusal(request: HttpRequest, refused: Refused) -> HttpResponse:
    """The answer to a request that was refused with a code of `headshots.exceptions.TEXTS`."""
    if not request.path.startswith("/api/") and request.path == reverse("new") and request.method == "POST":
        return upload_page(request, UploadFields.posted(request.POST), refused)
    return error(request, refused.code, text_of(refused))


def error(request: HttpRequest, code: str, text: RefusalText, back: str = "/") -> HttpResponse:
    """An error in words: the API's one shape, or a page. The page does not repeat the address asked for."""
    if request.path.startswith("/api/"):
        shape = {"code": code, "message": text.message, "advice": text.advice}
        return JsonResponse(shape, status=text.status, headers=retry_headers(text))
    page = render(request, "web/refusal.html", {"problem": text, "back": back}, status=text.status)
    return _with_headers(page, retry_headers(text))


def upload_page(request: HttpRequest, fields: UploadFields, refused: Refused | None = None) -> HttpResponse:
    """The upload form, with what was chosen before and with the refusal beside it, if there was one.

    The consent boxes are never ticked for the customer, not even again.
    """
    tier = TIERS.get(fields.tier, TIERS["free"])
    if sales.reason_against(tier):
        tier = TIERS["free"]
    problem = text_of(refused) if refused else None
    offered = styles.published_everywhere()
    context: dict[str, Any] = {
        "tier": tier,
        "styles": [(style, style.slug in fields.styles or not fields.styles) for style in offered],
        "fixed_styles": [style.name for style in styles.published(TIERS["free"])],
        "upload_id": uuid.uuid4(),
        "consent_text": consent.TEXT,
        "email": fields.email,
        "is_work_required": challenges.is_required(),
        "problem_code": refused.code if refused else "",
        "problem": problem,
    }
    response = render(request, "web/new.html", context, status=problem.status if problem else 200)
    response["Cache-Control"] = "no-store"  # a cached form would carry a used upload number
    return _with_headers(response, retry_headers(problem) if problem else {})


def _with_headers(response: HttpResponse, headers: Mapping[str, str]) -> HttpResponse:
    for name, value in headers.items():
        response[name] = value
    return response
