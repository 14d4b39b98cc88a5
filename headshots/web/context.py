"""What every page may show: the tiers, and plainly whether the engine or the payments are stand-ins."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from headshots.services import sales
from headshots.tiers import TIERS


def site(request: HttpRequest) -> dict[str, Any]:
    """The variables of all templates."""
    return {
        "site_name": "Headshots",
        "tiers": TIERS,
        "premium_against": sales.reason_against(TIERS["premium"]),
        "is_preview_engine": settings.ENGINE == "preview",
        "is_test_payment": settings.PAYMENTS == "test",
    }
