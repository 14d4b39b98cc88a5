"""An order's capability in the browser: one cookie per order, sent only to that order's own pages."""

import uuid
from datetime import datetime

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from headshots.models import Order


def _name(order_id: uuid.UUID) -> str:
    # With this prefix browsers take the cookie over https only. "__Host-" is stricter, but forbids a path,
    # and the path is what keeps one order's token away from another order's pages.
    prefix = "__Secure-" if settings.IS_PRODUCTION else ""
    return f"{prefix}order-{order_id.hex}"


def _path(order_id: uuid.UUID) -> str:
    return f"/orders/{order_id}"


def remember(response: HttpResponse, order: Order, token: str, now: datetime) -> None:
    """Let this browser open the order until it expires."""
    response.set_cookie(
        _name(order.pk),
        token,
        max_age=order.expires_at - now,
        path=_path(order.pk),
        secure=settings.IS_PRODUCTION,
        httponly=True,
        samesite="Lax",
    )


def token_of(request: HttpRequest, order_id: uuid.UUID) -> str:
    """The token this browser holds for the order; empty when it holds none."""
    return request.COOKIES.get(_name(order_id), "")


def forget(response: HttpResponse, order_id: uuid.UUID) -> None:
    """Take the order's token out of this browser."""
    response.delete_cookie(_name(order_id), path=_path(order_id), samesite="Lax")


def private_link(token: str) -> str:
    """The address that opens the order in any browser. No log ever sees its fragment, the token."""
    return f"{settings.SITE_URL}{reverse('open')}#{token}"
