"""Whatever body is posted: an answer below 500, and nothing stored."""

import io
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from headshots.exceptions import Refusal
from headshots.services import uploads
from headshots.services.uploads import MAX_BYTES
from headshots.web.middleware import WholeBody
from headshots.web.uploadhandler import FIELD, BoundedMemoryUploadHandler
from pipelines.errors import Refused
from tests.web.conftest import nothing_is_stored

pytestmark = pytest.mark.django_db
BOUNDARY: Final = b"frontier"
PIECES: Final = (
    b"--" + BOUNDARY,
    b"--" + BOUNDARY + b"--",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"--",
    b'Content-Disposition: form-data; name="selfie"; filename="a.jpg"',
    b'Content-Disposition: form-data; name="selfie"',
    b'Content-Disposition: form-data; name="consent"\r\n\r\ntrue',
    b"Content-Disposition: form-data; name*=utf-8''selfie; filename*=latin-9''%ff%00",
    b"Content-Disposition: attachment; filename=",
    b"Content-Type: image/jpeg",
    b"Content-Type: multipart/mixed; boundary=frontier",
    b"Content-Transfer-Encoding: base64",
    b"Content-Transfer-Encoding: quoted-printable",
    b"Content-Transfer-Encoding: base64\r\n\r\n////=",
    b"\xff\xd8\xff",
    b"\0",
)
body = st.lists(st.sampled_from(PIECES) | st.binary(max_size=40), max_size=40).map(b"".join)
content_type = st.one_of(
    st.just("multipart/form-data; boundary=frontier"),
    st.sampled_from(
        (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            'multipart/form-data; boundary="frontier',
            "multipart/form-data; boundary=" + "x" * 400,
            "multipart/form-data; boundary=frontier; charset=utf-7",
            "multipart/form-data; boundary=frontier; charset=no-such",
            "multipart/mixed; boundary=frontier",
            "application/x-www-form-urlencoded",
            "application/x-www-form-urlencoded; charset=utf-16",
            "application/json",
            "",
        )
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
)


sizes = st.lists(st.integers(0, MAX_BYTES // 3), max_size=5)
PART: Final = st.tuples(st.sampled_from((FIELD, "other")), sizes)


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder is fuzzed elsewhere; here every photo is refused at once."""

    def refused(raw: bytes, **options: bool) -> bytes:
        raise Refused("not_an_image")

    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", refused)


@pytest.mark.parametrize("path", ["/new", "/api/v1/orders"])
def test_any_body_is_answered_and_stores_nothing(
    fuzz: Callable[..., None], client: Client, built_in: None, no_decoder: None, path: str
) -> None:
    client.raise_request_exception = True  # an error of ours fails here with its own traceback

    @given(body, content_type, st.integers(-3, 3))
    def check(raw: bytes, kind: str, more: int) -> None:
        environ: dict[str, Any] = {
            "wsgi.input": io.BytesIO(raw),
            "CONTENT_TYPE": kind,
            "CONTENT_LENGTH": str(max(0, len(raw) + more)),
        }
        response = client.generic("POST", path, **environ)

        assert 400 <= response.status_code < 500
        shown = response.content.decode()
        assert re.search(r'"code": ?"[a-z_]+"', shown) or "<html" in shown

    fuzz(check, examples=150)
    assert nothing_is_stored()


def test_the_handler_holds_what_it_was_given_or_refuses(fuzz: Callable[..., None]) -> None:
    """Chunks of any sizes in any order: the file is their exact sum, or there is none and a code."""

    @given(
        st.lists(
            PART,
            max_size=3,
        )
    )
    def check(parts: list[tuple[str, list[int]]]) -> None:
        from django.core.files.uploadhandler import SkipFile

        handler, kept, skipped = BoundedMemoryUploadHandler(), [], 0
        for field, sizes in parts:
            try:
                handler.new_file(field, "name", "image/jpeg", None)
                start = 0
                for size in sizes:
                    handler.receive_data_chunk(bytes(size), start)
                    start += size
                kept.append((handler.file_complete(start), start))
            except SkipFile:
                skipped += 1
        for file, size in kept:
            assert file is not None
            assert (file.name, file.size, len(file.read())) == (FIELD, size, size)
            assert size <= MAX_BYTES
        wanted = [sizes for field, sizes in parts if field == FIELD]
        assert len(kept) <= 1
        is_too_large = bool(wanted) and sum(wanted[0]) > MAX_BYTES
        expected = "malformed_request" if len(wanted) > 1 else "file_too_large" if is_too_large else ""
        assert handler.refusal_code == expected

    fuzz(check, examples=60)


def test_a_bounded_body_gives_every_byte_once_or_says_that_some_are_missing(
    fuzz: Callable[..., None],
) -> None:
    calls = st.lists(st.tuples(st.sampled_from(("read", "readline")), st.integers(1, 50)), max_size=30)

    @given(st.binary(max_size=400), st.integers(0, 60), calls)
    def check(raw: bytes, missing: int, reads: list[tuple[str, int]]) -> None:
        bounded, got = WholeBody(io.BytesIO(raw), len(raw) + missing), bytearray()
        outcome = pytest.raises(Refusal, match="incomplete_upload") if missing else nullcontext()
        with outcome:
            for name, size in reads:
                got += getattr(bounded, name)(size)
            got += bounded.read()
        assert raw.startswith(got)
        assert missing or got == raw

    fuzz(check, examples=200)
