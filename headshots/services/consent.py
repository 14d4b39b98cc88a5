"""The consent text customers agree to. A changed text gets a new version; old versions stay on record."""

import hashlib
from dataclasses import dataclass
from typing import Final

VERSION: Final = "2026-11"
TEXT: Final = (
    "I am 18 or older, and this photo shows me. I agree that Headshots finds my face in this photo and "
    "computes a numeric description of it (biometric data) for one purpose only: to make the headshots I "
    "ordered. The description is never stored. The photo and the headshots are kept encrypted, are never "
    "used for training, and everything is deleted within 24 hours of this upload. I can delete it all sooner "
    "at any time, which also withdraws this consent."
)
TEXT_SHA256: Final = hashlib.sha256(TEXT.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Consent:
    """What the customer ticked; both boxes start unticked."""

    is_given: bool
    is_adult: bool
