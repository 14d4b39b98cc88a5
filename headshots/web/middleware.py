"""The outer wall: one constant policy for what pages may load, and bounds on what requests may bring."""

from collections.abc import Callable, Sequence
from typing import IO, Final, TypeAlias

from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, QueryDict
from django.http.response import HttpResponseBase

from headshots.exceptions import Refusal
from headshots.payments import provider
from headshots.services.uploads import MAX_BYTES
from headshots.web import pages
from headshots.web.uploadhandler import BoundedMemoryUploadHandler

Handler: TypeAlias = Callable[[HttpRequest], HttpResponseBase]


def policy(form_origins: Sequence[str]) -> str:
    """The Content-Security-Policy of every page. A form may lead to us, and on to `form_origins`."""
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",  # and workers, which go by it
            "style-src 'self'",
            "img-src 'self' blob:",  # blob: the chosen photo's thumbnail, which never leaves the page
            "connect-src 'self'",
            "font-src 'self'",
            "manifest-src 'self'",
            " ".join(("form-action 'self'", *form_origins)),
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )


# Browsers hold a form's redirect to this too: the checkout's leads to the provider's page.
POLICY: Final = policy(provider(settings.PAYMENTS).checkout_origins)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    # "no-referrer" would make browsers send "Origin: null" with our own forms, which the CSRF check refuses.
    # Private links keep their token in the fragment, and no Referer ever carries a fragment.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    "X-Content-Type-Options": "nosniff",
}

FORM_OVERHEAD: Final = 64 * 1024  # the form's other fields and the multipart framing
MAX_BODY: Final = MAX_BYTES + FORM_OVERHEAD
# An excess up to here is read and dropped: a server that closes with unread bytes resets the connection, and
# the client never sees why it was refused.
DRAIN_LIMIT: Final = 4 * MAX_BYTES
CHUNK: Final = 64 * 1024
FORM_TYPES: Final = ("multipart/form-data", "application/x-www-form-urlencoded")


def security_headers(get_response: Handler) -> Handler:
    """Every answer carries the policy; a view may set a stricter one for what it sends."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return middleware


class WholeBody:
    """A request's body that must arrive whole. Raises Refusal("incomplete_upload") where it breaks off.

    Django's parsers take the end of a broken connection for the end of the body. Where it stalls, as
    `headshots.web.server` measures it, the refusal is "upload_too_slow".
    """

    def __init__(self, stream: IO[bytes], length: int) -> None:
        self._stream = stream
        self._left = length
        self._is_broken = False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; all that is left without one."""
        return self._take(self._stream.read, size, is_all=size < 0)

    def readline(self, size: int = -1) -> bytes:
        """One line, or up to `size` bytes of it."""
        return self._take(self._stream.readline, size, is_all=False)

    def close(self) -> None:
        """What Django calls after reading a URL-encoded form; the server closes the connection itself."""

    def drain(self) -> None:
        """Read and drop what is still to come."""
        while self._left and not self._is_broken:
            self.read(min(CHUNK, self._left))

    def _take(self, read: Callable[[int], bytes], size: int, *, is_all: bool) -> bytes:
        try:
            data = read(size)
        except TimeoutError:
            self._is_broken = True
            raise Refusal("upload_too_slow") from None
        except OSError:  # the connection was reset
            data = b""
        self._left -= len(data)
        if self._left and (is_all or (size and not data)):
            self._is_broken = True
            raise Refusal("incomplete_upload")
        return data


def bounded_body(get_response: Handler) -> Handler:
    """Read forms here, before any view: too large, cut off or unreadable ones are answered with their code.

    Stands inside the CSRF middleware, whose cookie the form shown beside a refusal needs.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        try:
            _receive(request)
        except Refusal as refused:
            return pages.refusal(request, refused)
        return get_response(request)

    return middleware


def _receive(request: HttpRequest) -> None:
    length = _announced_length(request)
    if not length or not isinstance(request, WSGIRequest):
        return
    body = WholeBody(request._stream, length)
    request._stream = body  # type: ignore[assignment]  # the request offers no public way to its stream
    is_form = request.method == "POST" and request.content_type in FORM_TYPES
    try:
        if length > DRAIN_LIMIT or (length > MAX_BODY and not is_form):
            raise Refusal("file_too_large")
        if is_form:
            request.POST  # noqa: B018 (parses)
    except Exception:
        request.POST = QueryDict()  # there is nothing to read again
        if length <= DRAIN_LIMIT:
            body.drain()
        raise
    for handler in request.upload_handlers:
        if isinstance(handler, BoundedMemoryUploadHandler) and handler.refusal_code:
            raise Refusal(handler.refusal_code)


def _announced_length(request: HttpRequest) -> int:
    """The body's length in bytes; 0 without one. Of unknown length or packed, it is refused as unbounded."""
    announced = request.META.get("CONTENT_LENGTH") or "0"
    is_packed = request.META.get("HTTP_CONTENT_ENCODING", "identity") != "identity"
    if request.META.get("HTTP_TRANSFER_ENCODING") or is_packed or not announced.isdecimal():
        raise Refusal("malformed_request")
    return int(announced)
