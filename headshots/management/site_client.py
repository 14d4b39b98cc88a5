"""A customer of the running site, speaking HTTP like any other: used by the demo and the end-to-end tests."""

import http.cookiejar
import json
import re
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import altcha

from pipelines.errors import PipelineError

POLL_SECONDS: Final = 0.3
FINAL_STATES: Final = ("ready", "refused", "failed")


class SiteError(PipelineError):
    """The site answered with an error; `code` is the API's, or `http_<status>`."""


@dataclass
class SiteClient:
    """One customer: an address, and a jar for the site's cookies."""

    base_url: str
    jar: http.cookiejar.CookieJar = field(default_factory=http.cookiejar.CookieJar)

    def place(
        self, selfie: bytes, *, tier: str, styles: tuple[str, ...] = (), email: str = ""
    ) -> dict[str, Any]:
        """POST /api/v1/orders: the created order with its token. Raises SiteError with the refusal's code.

        A free one is worked for first: GET /api/v1/challenge, solved on one core.
        """
        fields = [
            ("tier", tier),
            ("consent", "true"),
            ("email", email),
            *(("styles", slug) for slug in styles),
        ]
        if tier == "free":
            fields.append(("altcha", self._worked_for()))
        body, content_type = _multipart(fields, selfie)
        answer = self._call("POST", "/api/v1/orders", body=body, headers={"Content-Type": content_type})
        order: dict[str, Any] = json.loads(answer)
        return order

    def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """GET the order. Raises SiteError once it is gone."""
        shown: dict[str, Any] = json.loads(
            self._call("GET", f"/api/v1/orders/{order['id']}", token=order["token"])
        )
        return shown

    def watch(self, order: Mapping[str, Any], *, timeout_seconds: float) -> Iterator[dict[str, Any]]:
        """The order again and again until it is final. Raises SiteError("timeout")."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            shown = self.order(order)
            yield shown
            if shown["state"] in FINAL_STATES or shown["state"] == "awaiting_payment":
                return
            if time.monotonic() > deadline:
                raise SiteError(
                    "timeout", f"the order is still {shown['state']} after {timeout_seconds:.0f} s"
                )
            time.sleep(POLL_SECONDS)

    def pay(self, order: Mapping[str, Any]) -> None:
        """Open the private link in a browser's way, and press the button of the test checkout."""
        form = self._call("GET", "/o").decode()
        self._submit("/o", form, {"token": order["token"]})
        checkout = f"/orders/{order['id']}/checkout"
        self._submit(checkout, self._call("GET", checkout).decode(), {})

    def picture(self, order: Mapping[str, Any], index: int) -> bytes:
        """The JPEG of one finished picture."""
        return self._call("GET", f"/api/v1/orders/{order['id']}/headshots/{index}", token=order["token"])

    def delete(self, order: Mapping[str, Any]) -> str:
        """DELETE the order: the receipt's number."""
        answer = json.loads(self._call("DELETE", f"/api/v1/orders/{order['id']}", token=order["token"]))
        return str(answer["receipt_id"])

    def receipt(self, receipt_id: str) -> dict[str, Any]:
        """GET the receipt, finished or not."""
        shown: dict[str, Any] = json.loads(self._call("GET", f"/api/v1/receipts/{receipt_id}"))
        return shown

    def is_ready(self) -> bool:
        """Whether the site answers and holds itself ready."""
        try:
            self._call("GET", "/readyz")
        except (SiteError, OSError):
            return False
        return True

    def _worked_for(self) -> str:
        challenge = altcha.Challenge.from_dict(json.loads(self._call("GET", "/api/v1/challenge")))
        solution = altcha.solve_challenge(challenge)
        if solution is None:
            raise SiteError("timeout", "the challenge was not solved in time")
        return altcha.Payload(challenge, solution).to_base64()

    def _submit(self, path: str, page: str, fields: dict[str, str]) -> None:
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        if not found:
            raise SiteError("no_form", f"{path} shows no form")
        body = urllib.parse.urlencode({**fields, "csrfmiddlewaretoken": found[1]}).encode()
        self._call("POST", path, body=body, headers={"Content-Type": "application/x-www-form-urlencoded"})

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> bytes:
        sent = dict(headers or {})
        if token:
            sent["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(self.base_url + path, data=body, headers=sent, method=method)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))
        try:
            with opener.open(request, timeout=60) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise _site_error(error) from None


def _site_error(error: urllib.error.HTTPError) -> SiteError:
    try:
        shown = json.loads(error.read())
        return SiteError(shown["code"], f"{shown['message']} {shown['advice']}")
    except (ValueError, KeyError, TypeError):
        return SiteError(f"http_{error.code}", f"the site answered with status {error.code}")


def _multipart(fields: list[tuple[str, str]], selfie: bytes) -> tuple[bytes, str]:
    boundary = secrets.token_hex(16)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="selfie"; filename="selfie"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body = b"".join(parts) + head + selfie + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"
