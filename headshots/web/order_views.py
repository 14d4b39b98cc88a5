"""An order's own pages: progress, gallery, pictures and deletion; each needs the order's cookie."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any, Final, TypeAlias

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.text import slugify

from headshots.exceptions import NotFound, Refusal, text_of
from headshots.models import Order
from headshots.services import clock, delivery, export, orders, payments, progress, purge, redo
from headshots.services.progress import OrderView
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from headshots.web import links, pages

OrderPage: TypeAlias = Callable[..., HttpResponseBase]  # (request, order, now, **captured)
RoutedPage: TypeAlias = Callable[..., HttpResponseBase]  # (request, order_id, **captured)

STOP_POLLING: Final = 286  # htmx swaps the answer in and asks no more
PICTURE_POLICY: Final = "sandbox; default-src 'none'"


def private(*methods: str) -> Callable[[OrderPage], RoutedPage]:
    """Give the view the live order that the request's cookie opens, and keep its answer out of every cache.

    Without such an order the answer is the same 404 for unknown, foreign, expired and deleted ones.
    """

    def decorate(view: OrderPage) -> RoutedPage:
        @pages.answers(*methods)
        def found(request: HttpRequest, /, order_id: uuid.UUID, **captured: int) -> HttpResponseBase:
            now = clock.now()
            order = orders.find(order_id, links.token_of(request, order_id), now)
            try:
                return view(request, order, now, **captured)
            except NotFound:
                raise
            except Refusal as refused:
                back = reverse("order", args=(order_id,))
                return pages.error(request, refused.code, text_of(refused), back)

        @wraps(view)
        def answer(request: HttpRequest, order_id: uuid.UUID, **captured: int) -> HttpResponseBase:
            response = found(request, order_id, **captured)
            response["Cache-Control"] = "no-store, private"
            return response

        return answer

    return decorate


def stage(view: OrderView) -> str:
    """Where the order stands, in a few words; also what screen readers are told when it changes."""
    if view.is_delivered:
        return (
            f"Ready: {view.done} of {view.headshots} headshots" if view.failed else "Your headshots are ready"
        )
    match view.state:
        case OrderState.ASSESSING:
            return "Checking your photo"
        case OrderState.AWAITING_PAYMENT:
            return "Your photo is fine. Waiting for the payment"
        case OrderState.QUEUED:
            return "In the queue"
        case OrderState.RENDERING:
            if view.compared and view.made == view.headshots:
                return "Choosing the best"
            return f"Rendering {min(view.made + 1, view.headshots)} of {view.headshots}"
        case OrderState.REFUSED:
            return "We could not use this photo"
        case _:
            return "We could not make your headshots"


def redo_news(view: OrderView) -> str:
    """What became of the pictures that are made again, as a sentence or two; empty when there are none."""
    states = Counter(shot.redo.state for shot in view.shots if shot.redo)
    under_way, made = states["waiting"] + states["rendering"], states["ready"]
    news = []
    if under_way:
        news.append(
            "A picture is being made again."
            if under_way == 1
            else f"{under_way} pictures are being made again."
        )
    if made:
        news.append(
            "A new picture is ready: keep one of the two."
            if made == 1
            else f"{made} new pictures are ready: keep one of each two."
        )
    return " ".join(news)


def time_left(seconds: int) -> str:
    """The time until the deletion, as the page shows it before its script takes over."""
    hours, minutes = divmod(max(seconds, 0) // 60, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min" if minutes else "less than a minute"


def about(seconds: float) -> str:
    """A time to wait as one would say it: "less than a minute", "about 7 minutes", "about 2 hours"."""
    if seconds < 45:
        return "less than a minute"
    minutes = round(seconds / 60)
    if minutes > 10:
        minutes = 5 * round(minutes / 5)
    if minutes > 45:
        hours = max(round(minutes / 60), 1)
        return "about an hour" if hours == 1 else f"about {hours} hours"
    return "about a minute" if minutes == 1 else f"about {minutes} minutes"


def expectation(view: OrderView) -> str:
    """When the order is expected to start and to be ready, as one sentence; empty when nothing is known."""
    if view.estimate is None:
        return ""
    start, ready = about(view.estimate.start_seconds), about(view.estimate.ready_seconds)
    if view.state == OrderState.RENDERING or start == ready:
        return f"Ready in {ready}."
    return f"Starts in {start}, ready in {ready}."


def steps(view: OrderView) -> list[tuple[str, str]]:
    """The order's way as (name, "done" | "current" | "ahead"); empty once it ended badly."""
    way = [OrderState.ASSESSING, OrderState.QUEUED, OrderState.RENDERING, OrderState.READY]
    names = ["Photo check", "Queue", "Rendering", "Ready"]
    if view.tier.price_cents:
        way.insert(1, OrderState.AWAITING_PAYMENT)
        names.insert(1, "Payment")
    if view.state not in way:
        return []
    reached = way.index(OrderState(view.state)) + (view.state == OrderState.READY)
    return [
        (name, "done" if place < reached else "current" if place == reached else "ahead")
        for place, name in enumerate(names)
    ]


def dollars(cents: int) -> str:
    """Cents as a customer reads them: "$0.38"."""
    return f"${cents // 100}.{cents % 100:02d}"


def _context(order: Order, now: datetime) -> dict[str, Any]:
    view = progress.view(order, now)
    is_starting = payments.is_starting(order)
    is_moving = not view.is_final and (is_starting or view.state != OrderState.AWAITING_PAYMENT)
    counts = (view.done, view.compared, view.failed, sum(shot.state == "rendering" for shot in view.shots))
    expected = expectation(view)
    is_frozen = payments.is_frozen(order)
    return {
        "order": view,
        "stage": "Paid. Your headshots start in a moment" if is_starting else stage(view),
        "steps": steps(view),
        "time_left": time_left(view.seconds_left),
        "refunded": dollars(view.refunded_cents) if view.refunded_cents else "",
        "is_starting": is_starting,
        "is_moving": is_moving,
        "expected": expected,
        "is_frozen": is_frozen,
        "redo_news": redo_news(view),
        "seen": "-".join([view.state, *map(str, counts), *_redos_seen(view), slugify(expected)])
        + "-frozen" * is_frozen,
    }


def _redos_seen(view: OrderView) -> list[str]:
    return [f"{shot.redo.index}{shot.redo.state}" for shot in view.shots if shot.redo]


@private("GET")
def show(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """Progress and gallery, the way back, the time left, and the end."""
    link = links.private_link(links.token_of(request, order.pk))
    return render(request, "web/order.html", {**_context(order, now), "private_link": link})


@private("GET")
def progress_part(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """The part of the order's page that changes; 204 while it is as the page has it already."""
    context = _context(order, now)
    if context["is_moving"] and request.GET.get("seen") == context["seen"]:
        return HttpResponse(status=204)
    status = 200 if context["is_moving"] else STOP_POLLING
    return render(request, "web/progress.html", {**context, "is_update": True}, status=status)


@private("GET")
def picture(request: HttpRequest, order: Order, now: datetime, index: int) -> HttpResponseBase:
    """One headshot, large, with the ways to the one before and the one after."""
    payments.require_undisputed(order)
    view = progress.view(order, now)
    done = [shot for shot in view.shots if shot.state == "done"]
    place = next((place for place, shot in enumerate(done) if shot.index == index), None)
    if place is None:
        raise Refusal("headshot_not_found")
    context = {
        "order": view,
        "shot": done[place],
        "before": done[place - 1] if place else None,
        "after": done[place + 1] if place + 1 < len(done) else None,
    }
    return render(request, "web/picture.html", context)


@private("GET")
def preview(request: HttpRequest, order: Order, now: datetime, index: int) -> HttpResponseBase:
    """The small JPEG that the gallery shows."""
    return _jpeg(order, index, Kind.PREVIEW, now, "inline")


@private("GET")
def full(request: HttpRequest, order: Order, now: datetime, index: int) -> HttpResponseBase:
    """The full JPEG, to look at."""
    return _jpeg(order, index, Kind.HEADSHOT, now, "inline")


@private("GET")
def download(request: HttpRequest, order: Order, now: datetime, index: int) -> HttpResponseBase:
    """The full JPEG, to keep."""
    return _jpeg(order, index, Kind.HEADSHOT, now, "attachment")


def _jpeg(order: Order, index: int, kind: Kind, now: datetime, disposition: str) -> HttpResponse:
    response = HttpResponse(delivery.open_headshot(order, index, kind, now), content_type="image/jpeg")
    name = f"headshot-{delivery.place_of(order, index):02d}.jpg"
    response["Content-Disposition"] = f'{disposition}; filename="{name}"'
    response["Content-Security-Policy"] = PICTURE_POLICY
    return response


@private("POST")
def redo_headshot(request: HttpRequest, order: Order, now: datetime, index: int) -> HttpResponseBase:
    """Have one picture made again; the order's page then shows how far it is."""
    try:
        redo.ask(order, index, now)
    except Refusal as refused:
        if refused.code != "redo_under_way":  # the button was pressed twice
            raise
    return redirect(_card(order, index))


@private("POST")
def keep_headshot(request: HttpRequest, order: Order, now: datetime, index: int) -> HttpResponseBase:
    """Choose one of two pictures; the other is deleted."""
    redo.keep(order, index, now)
    return redirect(_card(order, index))


def _card(order: Order, index: int) -> str:
    return f"{reverse('order', args=(order.pk,))}#headshot-{index}"


@private("GET")
def archive(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """All finished headshots and the licence, as a ZIP that is made while it is sent."""
    return _zip(delivery.stream_archive(order, now), "headshots.zip")


@private("GET")
def export_everything(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """Everything we hold about the order, data and pictures, as a ZIP that is made while it is sent."""
    return _zip(export.stream(order, now), "everything.zip")


def _zip(pieces: Iterator[bytes], file_name: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(pieces, content_type="application/zip")
    response["Content-Disposition"] = f'attachment; filename="{file_name}"'
    return response


@private("POST")
def delete(request: HttpRequest, order: Order, now: datetime) -> HttpResponseBase:
    """Delete everything now. The keys are gone before this answers; the receipt's page shows the rest."""
    receipt_id = purge.request(order, actor="customer", now=now)
    response = redirect("receipt", receipt_id)
    links.forget(response, order.pk)
    response["Clear-Site-Data"] = '"cache"'
    return response
