"""The selfie: cleaned in a process without keys, sealed, opened again only for the worker."""

import logging
from datetime import datetime
from typing import Final

from django.conf import settings
from django.db import transaction

from headshots.exceptions import TEXTS, NotFound, Refusal
from headshots.faults import faultpoint
from headshots.hints import Task, enqueue
from headshots.models import Mail, Order, Selfie
from headshots.services import mails, objects, tombstones
from headshots.vault.envelope import Kind
from pipelines.errors import Refused, Retryable
from pipelines.images import MAX_UPLOAD_BYTES
from pipelines.sandbox import BUSY, clean_portrait_in_sandbox

MAX_BYTES: Final = MAX_UPLOAD_BYTES

_log = logging.getLogger(__name__)


def clean(raw: bytes) -> bytes:
    """The photo re-made from its pixels alone, as JPEG. Raises Refusal with the code of what is wrong."""
    try:
        return clean_portrait_in_sandbox(raw, is_filter_optional=settings.SANDBOX_FILTER == "optional")
    except Refused as error:  # from a process that read a stranger's bytes: only codes we know are believed
        raise Refusal(error.code if error.code in TEXTS else "truncated_image") from None
    except Retryable as error:  # no process could be started, or none was free: it is not the photo's fault
        level = logging.WARNING if error.code == BUSY else logging.ERROR
        _log.log(level, "no photo can be decoded: %s", error)
        raise Refusal("busy") from error


def store_selfie(order: Order, clean_jpeg: bytes, now: datetime) -> None:
    """Seal the photo under the order's selfie key and ask for its assessment.

    Raises NotFound when the order was fenced meanwhile, and then leaves nothing; else as `objects.put`.
    """
    index = 0
    stored = objects.intend(order, Kind.SELFIE, index, now)
    faultpoint("upload.intended")
    objects.put(stored, clean_jpeg, now)
    faultpoint("upload.put")
    try:
        with transaction.atomic():
            objects.require_unfenced(order)
            objects.mark_stored(stored)
            Selfie.objects.create(order=order, stored=stored, index=index, received_at=now)
            enqueue(Task.ASSESS, str(order.pk))
            mails.queue(order.pk, Mail.Kind.PLACED, now)
            faultpoint("upload.rows_written")
    except NotFound:
        objects.discard(stored)
        raise
    faultpoint("upload.committed")


def open_selfie(order: Order, now: datetime) -> bytes:
    """The cleaned photo as JPEG bytes. Raises NotFound when the order is no longer live."""
    selfie = Selfie.objects.filter(order=order).select_related("stored__order").order_by("index").first()
    if selfie is None:
        raise NotFound
    tombstones.require_none(order)
    return objects.read(selfie.stored, now)
