"""How an order looks over the API: from the one view that pages and API share, with absolute links."""

from datetime import datetime

from django.conf import settings
from django.urls import reverse

from headshots.api.schemas import ErrorOut, LinksOut, OrderOut, RedoOut, ShotOut
from headshots.models import Order
from headshots.services import progress
from headshots.states import OrderState


def absolute(route: str, *args: object) -> str:
    """The address of one of our pages or operations, as it is given to programs."""
    return f"{settings.SITE_URL}{reverse(route, args=args)}"


def order_out(order: Order, now: datetime) -> OrderOut:
    """A live order as the API shows it, without its token and private link."""
    view = progress.view(order, now)
    problem = None
    if view.problem:
        problem = ErrorOut(code=view.refusal_code, message=view.problem.message, advice=view.problem.advice)
    return OrderOut(
        **{
            name: getattr(view, name)
            for name in (
                *("id", "state", "headshots", "done", "compared", "failed", "percent"),
                *("created_at", "expires_at"),
            )
        },
        tier=view.tier.slug,
        seconds_left=view.seconds_left,
        estimated_start_at=view.estimated_start_at,
        estimated_ready_at=view.estimated_ready_at,
        engine=view.engine,
        problem=problem,
        refunded_cents=view.refunded_cents,
        redos_left=view.redos_left,
        redo_until=view.redo_until,
        receipt_id=view.receipt_id,
        shots=[_shot_out(order, shot) for shot in view.shots],
        links=LinksOut(
            self=absolute("api:show_order", order.id),
            private_link=None,
            archive=absolute("api:download_archive", order.id),
            export=absolute("api:export_order", order.id),
            site=absolute("order", order.id),
            checkout=absolute("api:open_checkout", order.id)
            if view.state == OrderState.AWAITING_PAYMENT
            else None,
            receipt=absolute("api:show_receipt", view.receipt_id),
        ),
    )


def _shot_out(order: Order, shot: progress.ShotView) -> ShotOut:
    url = absolute("api:download_headshot", order.id, shot.index) if shot.state == "done" else None
    return ShotOut(
        index=shot.index,
        place=shot.place,
        style=shot.style,
        state=shot.state,
        width=shot.width,
        height=shot.height,
        url=url,
        preview_url=url and f"{url}?preview=true",
        likeness=shot.likeness or None,
        redo=_redo_out(order, shot.redo) if shot.redo else None,
        can_redo=shot.can_redo,
    )


def _redo_out(order: Order, again: progress.RedoView) -> RedoOut:
    url = absolute("api:download_headshot", order.id, again.index) if again.state == "ready" else None
    return RedoOut(
        index=again.index,
        state=again.state,
        url=url,
        preview_url=url and f"{url}?preview=true",
        likeness=again.likeness or None,
    )
