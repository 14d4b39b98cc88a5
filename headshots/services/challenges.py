"""Proof of work: what a free order costs in place of money, so that no program takes them by the thousand.

The protocol is ALTCHA's, version 2: whoever orders derives keys by counting up until one begins as the signed
challenge says. Nothing is kept of a challenge but, once it was used, its signature, until it runs out.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import altcha
from django.conf import settings

from headshots.exceptions import Refusal
from headshots.models import SpentChallenge

LIFE: Final = timedelta(minutes=20)  # to choose a photo and to read the consent
# PBKDF2 is what browsers derive natively. 5000 rounds are 1 to 3 ms on one core, so that its calls' own cost
# does not count; the number of derivations is the setting.
ALGORITHM: Final = "PBKDF2/SHA-256"
ROUNDS: Final = 5000
MAX_CHARACTERS: Final = 4096  # a solution has some 750


def is_required() -> bool:
    """Whether a free order needs a solved challenge."""
    return bool(settings.FREE_WORK)


def create(now: datetime) -> dict[str, Any]:
    """A new signed challenge, as ALTCHA's clients take it; `data.steps` says how far they count at most.

    It is found after FREE_WORK to twice as many derivations, each as likely; at once when FREE_WORK is 0.
    """
    counter = settings.FREE_WORK + secrets.randbelow(max(settings.FREE_WORK, 1))
    challenge = altcha.create_challenge(
        ALGORITHM,
        ROUNDS,
        counter=counter,
        expires_at=now + LIFE,
        data={"steps": 2 * settings.FREE_WORK or 1},
        hmac_secret=_key("challenge"),
        hmac_key_secret=_key("solution"),
    )
    return challenge.to_dict()


def spend(solution: str, now: datetime) -> None:
    """Use up a solved challenge: the text that ALTCHA's clients send. Asks for none while FREE_WORK is 0.

    Raises Refusal: challenge_missing, challenge_wrong, or challenge_expired (too old, or used before). The
    first of two that send the same solution at once has used it.
    """
    if not is_required():
        return
    if not solution:
        raise Refusal("challenge_missing")
    payload = _read(solution)
    verdict = altcha.verify_solution(payload, _key("challenge"), hmac_key_secret=_key("solution"))
    if verdict.expired:
        raise Refusal("challenge_expired")
    if not verdict.verified:
        raise Refusal("challenge_wrong")
    # Signed by us, so both are there. The library goes by this machine's clock; what is used is forgotten by
    # the service's.
    signature, parameters = str(payload.challenge.signature), payload.challenge.parameters
    expires_at = datetime.fromtimestamp(float(parameters.expires_at or 0), UTC)
    if expires_at <= now:
        raise Refusal("challenge_expired")
    _, is_new = SpentChallenge.objects.get_or_create(signature=signature, defaults={"expires_at": expires_at})
    if not is_new:
        raise Refusal("challenge_expired")


def prune(now: datetime) -> int:
    """Forget the used challenges that have run out; how many."""
    return SpentChallenge.objects.filter(expires_at__lte=now).delete()[0]


def _read(solution: str) -> altcha.Payload:
    """The solution taken apart, nothing of it believed yet. Raises Refusal("challenge_wrong")."""
    if len(solution) > MAX_CHARACTERS:
        raise Refusal("challenge_wrong")
    try:
        return altcha.Payload.from_base64(solution)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # whatever a stranger may send
        raise Refusal("challenge_wrong") from None


def _key(purpose: str) -> bytes:
    """A key of its own for each purpose, the same in every process."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"headshots {purpose}".encode(), hashlib.sha256)
