"""Uploads: what the sandbox says is believed only as far as it can be."""

import pytest

from headshots.exceptions import Refusal
from headshots.services import uploads
from pipelines.errors import Refused, Retryable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("animated_image"), "animated_image"),
        (Refused("<script>"), "truncated_image"),
        (Retryable("sandbox_unavailable"), "busy"),
        (Retryable("sandbox_busy"), "busy"),
    ],
)
def test_the_sandbox_s_words_become_a_refusal_we_know(
    error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(raw: bytes, **options: bool) -> bytes:
        raise error

    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", answer)

    with pytest.raises(Refusal) as refused:
        uploads.clean(b"a photo")

    assert refused.value.code == code
