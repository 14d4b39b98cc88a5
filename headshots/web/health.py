"""Whether the process lives, and whether the service may take somebody's photo right now."""

import os
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from headshots.models import Heartbeat, Order
from headshots.services import clock, maintenance, purge
from headshots.web.pages import answers

PURGE_PATIENCE: Final = timedelta(minutes=10)


@answers("GET")
def alive(request: HttpRequest) -> HttpResponseBase:
    """The process answers; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


@answers("GET")
def ready(request: HttpRequest) -> HttpResponseBase:
    """200 while orders can be taken and deleted; 503 with the reasons otherwise."""
    reasons = _reasons()
    return JsonResponse(
        {"ready": not reasons, "reasons": reasons},
        status=503 if reasons else 200,
        headers={"Cache-Control": "no-store"},
    )


def _reasons() -> list[str]:
    reasons = []
    if settings.BLOB_STORE == "disk" and not os.access(settings.DATA / "blobs", os.W_OK | os.X_OK):
        reasons.append("the blob store cannot be written")
    try:
        now = clock.now()
        reasons += filter(None, (clock.problem(), maintenance.problem()))
        is_late = Order.objects.due(now - PURGE_PATIENCE).exists()
        has_run = Heartbeat.objects.filter(name=purge.HEARTBEAT, at__gt=now - PURGE_PATIENCE).exists()
    except DatabaseError:
        return [*reasons, "the database does not answer"]
    if is_late and not has_run:
        reasons.append("deletions are due and the purge has not run for ten minutes")
    return reasons
