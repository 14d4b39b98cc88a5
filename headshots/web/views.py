"""The public pages: what the service is, the upload, private links, and errors."""

from pathlib import Path

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.cache import add_never_cache_headers

from headshots.exceptions import TEXTS, NotFound, Refusal
from headshots.services import clock, consent, maintenance, orders, styles
from headshots.services.admission import Visitor
from headshots.services.licences import licence_of
from headshots.tiers import TIERS
from headshots.web import links, pages
from headshots.web.forms import UploadFields, upload_id

SAMPLES = frozenset(path.stem for path in (Path(__file__).parent / "static/web/samples").glob("*.jpg"))
PRIVATE_PATHS = ("/admin/", "/api/", "/o", "/orders/", "/receipts/")


@pages.answers("GET")
def landing(request: HttpRequest) -> HttpResponseBase:
    """What it is, what it costs, and what happens to the photo."""
    offered = [(style, style.slug in SAMPLES) for style in styles.published_everywhere()]
    return render(request, "web/landing.html", {"styles": offered})


@pages.answers("GET", "POST")
def new(request: HttpRequest) -> HttpResponseBase:
    """The upload form; a posted one becomes an order, and the browser is given its cookie."""
    if request.method != "POST":
        return pages.upload_page(request, UploadFields(tier=request.GET.get("tier", "free")))
    now = clock.now()
    fields = UploadFields.posted(request.POST)
    selfie = request.FILES.get("selfie")
    if selfie is None:
        raise Refusal("selfie_missing")
    placed = orders.place(
        raw=selfie.read(),
        tier_slug=fields.tier,
        style_slugs=fields.styles,
        address=fields.email,
        agreed=fields.agreed,
        upload_id=upload_id(request.POST),
        visitor=Visitor.of(request.META, request.POST.get("altcha", "")),
        now=now,
    )
    response = redirect("order", placed.order.pk)
    links.remember(response, placed.order, placed.token, now)
    return response


@pages.answers("GET", "POST")
def open_link(request: HttpRequest) -> HttpResponseBase:
    """Swap the token of a private link for the order's cookie. It comes in a body, never in an address."""
    if request.method != "POST":
        return _never_cached(render(request, "web/open.html"))
    now = clock.now()
    token = request.POST.get("token", "").strip().rpartition("#")[2]
    try:
        order = orders.find_by_token(token, now)
    except NotFound as refused:
        text = TEXTS[refused.code]
        return _never_cached(render(request, "web/open.html", {"problem": text}, status=text.status))
    response = redirect("order", order.pk)
    links.remember(response, order, token, now)
    return response


@pages.answers("GET")
def privacy(request: HttpRequest) -> HttpResponseBase:
    """What is kept, how, and for how long."""
    context = {"consent": consent, "inspection": maintenance.last_inspection()}
    return render(request, "web/privacy.html", context)


@pages.answers("GET")
def terms(request: HttpRequest) -> HttpResponseBase:
    """The terms and the two licences."""
    return render(request, "web/terms.html", {"licences": [(slug, licence_of(slug)) for slug in TIERS]})


@pages.answers("GET")
def licence(request: HttpRequest, tier_slug: str) -> HttpResponseBase:
    """The whole licence of a tier, as it is granted today."""
    context = {"licence": licence_of(tier_slug), "tier": TIERS[tier_slug]}
    return render(request, "web/licence.html", context)


@pages.answers("GET")
def verify_picture(request: HttpRequest) -> HttpResponseBase:
    """A page that reads a picture's marks in the browser; nothing that is put there is sent to us."""
    return render(request, "web/verify_picture.html")


@pages.answers("GET")
def robots(request: HttpRequest) -> HttpResponseBase:
    """Search engines have no business with orders and receipts."""
    lines = ("User-agent: *", *(f"Disallow: {path}" for path in PRIVATE_PATHS))
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """What cannot be read: Django's handler for 400."""
    return pages.error(request, "malformed_request", TEXTS["malformed_request"])


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler for 403."""
    return pages.error(request, "form_expired", TEXTS["form_expired"])


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's handler for a form without its CSRF token: old, or not ours."""
    return pages.error(request, "form_expired", TEXTS["form_expired"])


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler for 404."""
    return pages.error(request, "page_not_found", TEXTS["page_not_found"])


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler for 500."""
    return pages.error(request, "server_error", TEXTS["server_error"])


def _never_cached(response: HttpResponse) -> HttpResponse:
    add_never_cache_headers(response)
    return response
