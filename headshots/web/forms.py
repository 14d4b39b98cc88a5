"""The upload form's fields, as posted and as shown again after a refusal."""

import uuid
from dataclasses import dataclass, field

from django.http import QueryDict

from headshots.exceptions import Refusal
from headshots.services.consent import Consent
from headshots.tiers import TIERS


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadFields:
    """What the customer chose. An unknown tier, style or address is kept: the service refuses it."""

    tier: str = "free"
    styles: tuple[str, ...] = ()
    email: str = field(default="", repr=False)
    agreed: Consent = field(default_factory=lambda: Consent(is_given=False, is_adult=False))

    @classmethod
    def posted(cls, post: QueryDict) -> "UploadFields":
        """The fields of a posted form. Styles count only for tiers that leave a choice."""
        slug = post.get("tier", "free")
        tier = TIERS.get(slug)
        has_choice = tier is None or tier.style_slugs is None
        return cls(
            tier=slug,
            styles=tuple(post.getlist("styles")) if has_choice else (),
            email=post.get("email", ""),
            agreed=Consent(is_given=bool(post.get("consent")), is_adult=bool(post.get("adult"))),
        )


def upload_id(post: QueryDict) -> uuid.UUID:
    """The number the form was rendered with. Raises Refusal("malformed_request") when it is none."""
    try:
        return uuid.UUID(post.get("upload_id", ""))
    except ValueError:
        raise Refusal("malformed_request") from None
