"""Whether the process lives, whether somebody's photo may be taken right now, and whether pictures are made.

The first is for whoever restarts this process, the second for whoever sends it requests. The third is for
whoever is called: without workers the site still takes, shows, gives out and deletes.
"""

import os
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase

from headshots.models import Heartbeat, Order
from headshots.services import clock, maintenance, purge, workers
from headshots.web.pages import answers

PURGE_PATIENCE: Final = timedelta(minutes=10)


@answers("GET")
def alive(request: HttpRequest) -> HttpResponseBase:
    """The process answers; nothing else is asked."""
    return HttpResponse("ok\n", content_type="text/plain")


@answers("GET")
def ready(request: HttpRequest) -> HttpResponseBase:
    """200 while orders can be taken and deleted; 503 with the reasons otherwise."""
    return _answer("ready", _reasons())


@answers("GET")
def working(request: HttpRequest) -> HttpResponseBase:
    """200 while whatever waits to be rendered is in the hands of workers that move; 503 with the reasons."""
    try:
        reasons = workers.complaints(clock.now())
    except DatabaseError:
        reasons = ["the database does not answer"]
    return _answer("working", reasons)


def _answer(word: str, reasons: list[str]) -> HttpResponseBase:
    return JsonResponse(
        {word: not reasons, "reasons": reasons},
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
