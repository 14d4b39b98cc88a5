"""Staff screens on Django's admin: styles are edited, the rest is looked at. Importing registers them."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.response import TemplateResponse

from headshots.admin import dashboard, orders, records, styles
from headshots.services import clock

__all__ = ["orders", "records", "styles"]

admin.site.site_header = admin.site.site_title = admin.site.index_title = "Headshots"

_plain_index = admin.site.index


def _index_with_dashboard(
    request: HttpRequest, extra_context: dict[str, Any] | None = None
) -> TemplateResponse:
    """Django's front page, with the dashboard for staff who may see orders."""
    context = dict(extra_context or {})
    if request.user.has_perm("headshots.view_order"):
        context["dashboard"] = dashboard.read(clock.now(), count_store=request.GET.get("store") == "count")
    return _plain_index(request, context)


# Replaced on the default site. A site class of our own would have to live outside this package: whatever is
# imported while the site is being made registers its screens on a site that is then thrown away.
admin.site.index = _index_with_dashboard  # type: ignore[method-assign]  # the reason is above
