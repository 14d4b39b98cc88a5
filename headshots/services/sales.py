"""What may be sold here: pictures for money need a licence for every network that makes them.

Some published weights are for research only, or say contradicting things of commercial use; the manifest
says which. An operator who has a licence records it in WEIGHTS_LICENCES. Until then the paid tier is shown
and not sold.

The manifest alone decides, not the folder of the weights: web processes need not have that, and what is in it
may change while they run. So random weights, which belong to nobody, need the setting as well.
"""

from collections.abc import Collection
from typing import Final

from django.conf import settings

from headshots.exceptions import TEXTS, Refusal
from headshots.tiers import Tier
from pipelines.errors import Final as Mended
from pipelines.weights_manifest import ALTERNATIVES, MANIFEST

EXAMPLE: Final = "WEIGHTS_LICENCES='antelopev2=contract of 2026-05, instantid=letter of 2026-06'"


def missing(held: Collection[str] = ()) -> tuple[str, ...]:
    """The weights that the active engine uses and that no commercial licence is recorded for, by key.

    `held` are the keys of a bundle that can be looked at: what is optional counts where it is among them.
    """
    if settings.ENGINE != "instantid":
        return ()
    used = {
        file.key
        for file in MANIFEST
        if file.commercial != "yes"
        and (file.key in held or not (file.is_optional or file.key in ALTERNATIVES))
    }
    return tuple(sorted(used - settings.WEIGHTS_LICENCES.keys()))


def reason_against(tier: Tier) -> str:
    """Why a tier is not on sale here, as one sentence for customers; empty when it is."""
    return TEXTS["not_on_sale"].advice if tier.price_cents and missing() else ""


def require_on_sale(tier: Tier) -> None:
    """Raises Refusal("not_on_sale")."""
    if reason_against(tier):
        raise Refusal("not_on_sale")


def problem(held: Collection[str] = ()) -> str:
    """What is `missing` and how to mend it, in one line for operators; empty when everything is licensed."""
    if not (unlicensed := missing(held)):
        return ""
    return (
        f"premium may not be sold: no licence is recorded for commercial use of {_told(unlicensed)}. "
        f"Record what you have, as in {EXAMPLE}"
    )


def require_licences(held: Collection[str]) -> None:
    """For a worker before it loads its engine from a bundle with the weights `held`, by key.

    Raises Final("weights_unlicensed") in production, and wherever WEIGHTS_LICENCES names some of the licences
    and not all; without any, an installation that is no production makes free pictures alone.
    """
    unlicensed = missing(held)
    if unlicensed and (settings.IS_PRODUCTION or settings.WEIGHTS_LICENCES):
        raise Mended("weights_unlicensed", f"WEIGHTS_LICENCES names no licence for {_told(unlicensed)}")


def _told(keys: tuple[str, ...]) -> str:
    licences = {file.key: file.licence for file in MANIFEST}
    return " and ".join(f"{key} ({licences[key]})" for key in keys)
