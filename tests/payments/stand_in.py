"""A stand-in for Stripe on loopback: real HTTP, Stripe's objects, its idempotency, and its ways to fail.

What it keeps to, from Stripe's documentation: a key repeats the first answer, whatever it was, unless the
request never began (429, 401); a key with other values is an error; keys are forgotten after a day; a session
can be paid once, while it is open; refunds never exceed what was paid.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import stripe

SECRET_KEY: Final = "sk_test_standin"
WEBHOOK_SECRET: Final = "whsec_standin"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How one request fails: before anything happened, or after it did and only the answer is lost."""

    status: int  # 0: the connection breaks
    moment: Literal["before", "after"] = "before"
    code: str = ""


@dataclass(slots=True)
class Asked:
    method: str
    path: str
    values: dict[str, str]
    key: str


class _Error(Exception):
    def __init__(self, status: int, code: str, kind: str = "invalid_request_error") -> None:
        super().__init__(code)
        self.status = status
        self.body = {"error": {"type": kind, "code": code, "message": "refused"}}


@dataclass
class StandIn:
    """The account: sessions, payment intents and refunds; `asked` is every request, in order."""

    url: str = ""
    sessions: dict[str, Json] = field(default_factory=dict)
    intents: dict[str, Json] = field(default_factory=dict)
    refunds: dict[str, Json] = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    failures: deque[Failure] = field(default_factory=deque)
    refunds_fail: bool = False
    checkout_origin: str = ""
    _answers: dict[str, tuple[dict[str, str], int, Json]] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _count: int = 0

    # what happens at Stripe without us

    def pay(self, session_id: str) -> Json:
        """The customer pays; the event it makes. Raises ValueError when the session cannot be paid."""
        session = self.sessions[session_id]
        if session["status"] != "open":
            raise ValueError(f"the session is {session['status']}")
        intent = {
            "id": self._new("pi"),
            "object": "payment_intent",
            "amount": session["amount_total"],
            "currency": session["currency"],
            "metadata": dict(session["_intent_metadata"]),
        }
        self.intents[intent["id"]] = intent
        session |= {
            "status": "complete",
            "payment_status": "paid",
            "payment_intent": intent["id"],
            "url": None,
            "customer_details": {"email": "jenny@example.com", "name": "Jenny Rosen"},
        }
        return self.event("checkout.session.completed", session)

    def begin_delayed(self, session_id: str) -> Json:
        """The customer is through; the bank takes its time."""
        self.sessions[session_id] |= {"status": "complete", "url": None}
        return self.event("checkout.session.completed", self.sessions[session_id])

    def fail_delayed(self, session_id: str) -> Json:
        """The bank says no."""
        return self.event("checkout.session.async_payment_failed", self.sessions[session_id])

    def succeed_delayed(self, session_id: str) -> Json:
        """The bank says yes."""
        self.sessions[session_id]["status"] = "open"
        self.pay(session_id)
        self.events.pop()
        return self.event("checkout.session.async_payment_succeeded", self.sessions[session_id])

    def expire(self, session_id: str) -> Json:
        """Nobody paid in time."""
        self.sessions[session_id] |= {"status": "expired", "url": None}
        return self.event("checkout.session.expired", self.sessions[session_id])

    def refund_by_hand(self, intent_id: str, cents: int) -> Json:
        """Somebody gives money back on Stripe's own pages."""
        self._refund(intent_id, cents, {})
        return self.event("charge.refunded", self._charge(intent_id))

    def fail_refund(self, refund_id: str) -> Json:
        """The customer's bank does not take the money."""
        self.refunds[refund_id] |= {"status": "failed", "failure_reason": "expired_or_canceled_card"}
        return self.event("refund.failed", self.refunds[refund_id])

    def dispute(
        self, intent_id: str, status: str = "needs_response", number: int = 1, **changes: str | int
    ) -> Json:
        """The customer's bank wants the money back, or the dispute ends; the sum may be the bank's own."""
        intent = self.intents[intent_id]
        dispute = {
            "id": f"dp_{intent_id}_{number}",
            "object": "dispute",
            "payment_intent": intent_id,
            "amount": intent["amount"],
            "currency": intent["currency"],
            "status": status,
            **changes,
        }
        is_end = status in ("won", "lost", "warning_closed", "prevented")
        return self.event(f"charge.dispute.{'closed' if is_end else 'created'}", dispute)

    def event(self, kind: str, about: Json, **changes: Any) -> Json:
        """An event as Stripe sends it, with what it is about as it is now."""
        shown = {name: value for name, value in about.items() if not name.startswith("_")}
        event = {
            "id": self._new("evt"),
            "object": "event",
            "api_version": stripe.api_version,
            "created": int(time.time()),
            "livemode": False,
            "type": kind,
            "data": {"object": json.loads(json.dumps(shown))},
            **changes,
        }
        self.events.append(event)
        return event

    def refunded_cents(self) -> int:
        """What is back with customers, or on its way."""
        return sum(each["amount"] for each in self.refunds.values() if each["status"] != "failed")

    def forget_keys(self) -> None:
        """A day passes: Stripe forgets idempotency keys."""
        self._answers.clear()

    def posts(self, path: str) -> list[Asked]:
        """The requests that wanted to make something there."""
        return [each for each in self.asked if (each.method, each.path) == ("POST", path)]

    # what it answers

    def answer(self, asked: Asked) -> tuple[int, Json]:
        """Status and body. Raises ConnectionError where the connection is to break."""
        with self._lock:
            self.asked.append(asked)
            failure = self.failures.popleft() if self.failures else None
            if failure and failure.moment == "before":
                self._fail(failure, asked)
            status, body = self._answer_once(asked)
        if failure:
            self._fail(failure, None)
        return status, body

    def _fail(self, failure: Failure, asked: Asked | None) -> None:
        if failure.status == 0:
            raise ConnectionError
        error = _Error(failure.status, failure.code, "api_error" if failure.status >= 500 else "card_error")
        began = failure.status not in (401, 429)
        if asked and asked.key and began:
            self._answers.setdefault(asked.key, (asked.values, error.status, error.body))
        raise error

    def _answer_once(self, asked: Asked) -> tuple[int, Json]:
        if asked.key in self._answers:
            values, status, body = self._answers[asked.key]
            if values != asked.values:
                raise _Error(400, "idempotency_key_reused", "idempotency_error")
            return status, body
        try:
            status, body = 200, self._do(asked)
        except _Error as error:
            status, body = error.status, error.body
        body = json.loads(json.dumps({key: each for key, each in body.items() if not key.startswith("_")}))
        if asked.method == "POST" and asked.key:
            self._answers[asked.key] = (asked.values, status, body)
        return status, body

    def _do(self, asked: Asked) -> Json:
        match asked.method, asked.path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                return self._create_session(asked.values)
            case "GET", ["checkout", "sessions", session_id]:
                return self._found(self.sessions, session_id)
            case "POST", ["checkout", "sessions", session_id, "expire"]:
                if self._found(self.sessions, session_id)["status"] != "open":
                    raise _Error(400, "")
                self.expire(session_id)
                return self.sessions[session_id]
            case "POST", ["refunds"]:
                return self._create_refund(asked.values)
            case "GET", ["refunds"]:
                return self._list_refunds(asked.values)
            case "GET", ["payment_intents", intent_id]:
                return self._found(self.intents, intent_id)
        raise _Error(404, "resource_missing")

    def _create_session(self, values: Mapping[str, str]) -> Json:
        left = int(values["expires_at"]) - time.time()
        if not 30 * 60 <= left <= 24 * 3600 or "payment_method_types[0]" in values:
            raise _Error(400, "parameter_invalid")
        session_id = self._new("cs_test")
        self.sessions[session_id] = {
            "id": session_id,
            "object": "checkout.session",
            "status": "open",
            "payment_status": "unpaid",
            "client_reference_id": values["client_reference_id"],
            "amount_total": int(values["line_items[0][price_data][unit_amount]"])
            * int(values["line_items[0][quantity]"]),
            "currency": values["line_items[0][price_data][currency]"],
            "payment_intent": None,
            "livemode": False,
            "expires_at": int(values["expires_at"]),
            "metadata": _under("metadata", values),
            "url": f"{self.checkout_origin or self.url}/c/pay/{session_id}#fragment",
            "success_url": values["success_url"],
            "cancel_url": values["cancel_url"],
            "_intent_metadata": _under("payment_intent_data[metadata]", values),
        }
        return self.sessions[session_id]

    def _create_refund(self, values: Mapping[str, str]) -> Json:
        intent = self._found(self.intents, values["payment_intent"])
        return self._refund(intent["id"], int(values["amount"]), _under("metadata", values))

    def _refund(self, intent_id: str, cents: int, metadata: Json) -> Json:
        if self._charge(intent_id)["amount_refunded"] + cents > self.intents[intent_id]["amount"]:
            raise _Error(400, "charge_already_refunded")
        refund = {
            "id": self._new("re"),
            "object": "refund",
            "status": "failed" if self.refunds_fail else "succeeded",
            "failure_reason": "lost_or_stolen_card" if self.refunds_fail else None,
            "amount": cents,
            "currency": self.intents[intent_id]["currency"],
            "payment_intent": intent_id,
            "metadata": metadata,
        }
        self.refunds[refund["id"]] = refund
        return refund

    def _charge(self, intent_id: str) -> Json:
        intent = self.intents[intent_id]
        return {
            "id": f"ch_{intent_id}",
            "object": "charge",
            "payment_intent": intent_id,
            "amount": intent["amount"],
            "amount_refunded": sum(
                each["amount"]
                for each in self.refunds.values()
                if each["payment_intent"] == intent_id and each["status"] != "failed"
            ),
            "currency": intent["currency"],
            "metadata": intent["metadata"],
        }

    def charge_refunded(self, intent_id: str) -> Json:
        """The event that follows every refund, ours too."""
        return self.event("charge.refunded", self._charge(intent_id))

    def _list_refunds(self, values: Mapping[str, str]) -> Json:
        found = [each for each in self.refunds.values() if each["payment_intent"] == values["payment_intent"]]
        newest = found[::-1]
        if after := values.get("starting_after"):
            newest = newest[[each["id"] for each in newest].index(after) + 1 :]
        limit = int(values.get("limit", 10))
        return {
            "object": "list",
            "url": "/v1/refunds",
            "has_more": len(newest) > limit,
            "data": newest[:limit],
        }

    def _found(self, where: Mapping[str, Json], name: str) -> Json:
        if name not in where:
            raise _Error(404, "resource_missing")
        return where[name]

    def _new(self, prefix: str) -> str:
        with self._lock:
            self._count += 1
            return f"{prefix}_{self._count:06d}"


def _under(name: str, values: Mapping[str, str]) -> Json:
    return {key[len(name) + 1 : -1]: value for key, value in values.items() if key.startswith(f"{name}[")}


def signed(event: Json, *, secret: str = WEBHOOK_SECRET, at: int | None = None) -> tuple[bytes, str]:
    """An event's body and its Stripe-Signature header, made by Stripe's own function."""
    body = json.dumps(event, indent=2)
    return body.encode(), stripe.WebhookSignature.generate_signature_header(body, secret, timestamp=at)


@contextmanager
def serving() -> Iterator[StandIn]:
    """A stand-in that answers on a free port of loopback."""
    account = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            values = dict(parse_qsl(parts.query) + parse_qsl(body, keep_blank_values=True))
            if self.headers.get("Authorization") != f"Bearer {SECRET_KEY}":
                self._send(401, {"error": {"type": "invalid_request_error", "message": "key"}})
                return
            asked = Asked(self.command, parts.path, values, self.headers.get("Idempotency-Key", ""))
            try:
                status, answer = account.answer(asked)
            except ConnectionError:
                self.close_connection = True
                return
            except _Error as error:
                status, answer = error.status, error.body
            self._send(status, answer)

        do_GET = do_POST = _serve

        def _send(self, status: int, answer: Json) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    account.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield account
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
