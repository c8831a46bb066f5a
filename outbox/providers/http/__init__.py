"""Any plain HTTP gateway, described by OPTIONS alone (the README lists them)."""

import hmac
import math
import re
from base64 import b64encode
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from django.conf import settings
from django.http import HttpRequest

from outbox.providers import base
from outbox.providers.base import (
    Accepted,
    DeliveryReceipt,
    Message,
    OutcomeUnknown,
    ReceiptRefused,
    Rejected,
    Unavailable,
)
from outbox.providers.calls import Answer, Caller
from outbox.providers.http.answers import IdFinder, Rule, read_json, read_rules, retry_after
from outbox.providers.http.receipts import Callbacks
from outbox.providers.http.templates import PLACEHOLDERS, fill, names_in, values_of

METHODS = ("GET", "POST", "PUT", "PATCH")
KNOWN = {
    *("url", "method", "headers", "query", "form", "json", "auth", "timeout_s"),
    *("encoding", "accepted", "rejected", "id", "receipt_token", "receipt"),
}
SAMPLE = Message("0", "+254711000001", "text", "sender", "GSM-7", 1)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.1
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_OURS = {"content-length", "transfer-encoding", "host"}  # how the request is framed and routed is not for a template
_HOST = re.compile(r"[a-z0-9.-]{1,253}")
_NUMBER = re.compile(r"\d{6}")
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")

# Explicit refusals to take the message now, that only a person can end.
PAUSED = {
    401: ("provider_credentials", "does not accept our credentials"),
    402: ("provider_out_of_credit", "says that our account with it is out of credit"),
    403: ("provider_credentials", "does not accept our credentials"),
}


class Provider(base.Provider):
    """OPTIONS name the request, with placeholders, and the forms of the answers; what fits none is judged with care."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name)
        if unknown := options.keys() - KNOWN:
            raise ValueError(f"OPTIONS do not know {', '.join(sorted(unknown))}; they know {', '.join(sorted(KNOWN))}.")
        self.url = _url(options.get("url"))
        self.method = _method(options.get("method"))
        self.timeout_s = _seconds(options.get("timeout_s", self.timeout_s))
        self.receipt_token: str | None = _token(options.get("receipt_token"))
        # What the gateway calls our GSM-7 and UCS-2: 0 and 8 in SMPP, 0 and 2 in Kannel, text and unicode elsewhere.
        self.encoding = _fields("encoding", options.get("encoding"))
        self.query = _fields("query", options.get("query"))
        self.form = _fields("form", options.get("form"))
        self.json: Any = options.get("json")
        self.headers = _headers(_fields("headers", options.get("headers")), options.get("auth"))
        self._check_template()
        self.accepted: list[Rule] = read_rules("accepted", options.get("accepted"))
        self.rejected: list[Rule] = read_rules("rejected", options.get("rejected"))
        if not self.accepted:
            raise ValueError("accepted: say which answers mean that the message was taken.")
        self.id = IdFinder(options.get("id"))
        self.callbacks = Callbacks(options["receipt"]) if options.get("receipt") is not None else None
        self.calls = Caller()
        try:
            self._prepared(SAMPLE)
        except (ValueError, requests.RequestException) as error:
            raise ValueError(f"No request can be made of these OPTIONS: {error}") from None

    def _check_template(self) -> None:
        if self.form and self.json is not None:
            raise ValueError("Give `form` or `json`, not both.")
        if unknown := self.encoding.keys() - {"GSM-7", "UCS-2"}:
            raise ValueError(f"encoding: it maps GSM-7 and UCS-2, and does not know {', '.join(sorted(unknown))}.")
        names = set(names_in([self.query, self.headers, self.form, self.json]))
        known = {*PLACEHOLDERS, "receipt_url"}
        if unknown := names - known:
            raise ValueError(
                f"No such placeholder: {{{'}, {'.join(sorted(unknown))}}}; known are {', '.join(sorted(known))}."
            )
        if "text" not in names or not names & {"recipient", "msisdn"}:
            raise ValueError("The request must hold {text}, and {recipient} or {msisdn}.")
        if "receipt_url" in names and not self.receipt_token:
            raise ValueError("{receipt_url} needs a `receipt_token`, the secret part of the address.")

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, message: Message) -> Accepted:
        """Hand one message over. Raises Rejected, Unavailable or OutcomeUnknown."""
        try:
            request = self._prepared(message)
        except (ValueError, requests.RequestException):
            raise Rejected("The message cannot be put into a request, as this provider's OPTIONS ask for.") from None
        return self._judge(self.calls.call(request, self.timeout_s))

    def _prepared(self, message: Message) -> requests.PreparedRequest:
        values = {
            **values_of(message),
            "encoding": self.encoding.get(message.encoding, message.encoding),
            "receipt_url": self._receipt_url(message.reference),
        }
        headers = fill(self.headers, values)
        if any(_CONTROL.search(value) or value != value.strip() for value in headers.values()):
            raise ValueError("A header holds no line breaks, no other control characters and no space at its ends.")
        request = requests.Request(
            self.method,
            self.url,
            headers={name: value.encode() for name, value in headers.items()},
            params=fill(self.query, values),
            data=fill(self.form, values),
            json=fill(self.json, values),
        )
        return request.prepare()

    def _receipt_url(self, reference: str) -> str:
        if not self.receipt_token:
            return ""
        path = f"/api/providers/{quote(self.name, safe='')}/receipts/{self.receipt_token}"
        return f"{settings.PUBLIC_URL}{path}?reference={quote(reference, safe='')}"

    # --- the answer ---------------------------------------------------------------------------------------------------

    def _judge(self, answer: Answer) -> Accepted:
        document = read_json(answer.body)
        for reads in (True, False):  # a rule that reads the body goes before one that knows the status only
            accepted = any(rule.fits(answer, document) for rule in self.accepted if rule.reads_the_body == reads)
            rejected = any(rule.fits(answer, document) for rule in self.rejected if rule.reads_the_body == reads)
            if accepted and rejected:
                raise OutcomeUnknown(f"OPTIONS list the answer as accepted and as rejected (HTTP {answer.status}).")
            if accepted:
                return Accepted(self.id.find(answer, document))
            if rejected:
                raise Rejected(f"The provider refused the message (HTTP {answer.status}).")
        raise _unlisted(answer)

    # --- receipts -----------------------------------------------------------------------------------------------------

    def read_receipt(self, request: HttpRequest, token: str) -> DeliveryReceipt:
        """The receipt in a callback, once its address shows our secret. Raises ReceiptRefused."""
        if not self.receipt_token or not hmac.compare_digest(_bytes(token), _bytes(self.receipt_token)):
            raise ReceiptRefused("The address of the callback is not the one we gave out.", authentic=False)
        if not self.callbacks:
            raise ReceiptRefused("OPTIONS do not say how to read receipts.", authentic=True)
        return self.callbacks.read(request)


def _unlisted(answer: Answer) -> base.ProviderError:
    """What an answer means that OPTIONS do not list: only an explicit refusal says that nothing was taken."""
    status = answer.status
    if status in PAUSED:
        code, says = PAUSED[status]
        return Unavailable(f"The provider {says} (HTTP {status}).", code=code, refuses_us=True)
    if status in (429, 503):
        return Unavailable(
            f"The provider is busy (HTTP {status}).", code="provider_busy", retry_after=retry_after(answer.headers)
        )
    if status // 100 == 3:
        details = f"The provider redirects{_host(answer)} (HTTP {status}), which is never followed."
        return Unavailable(details, code="provider_redirects", refuses_us=True)
    if status in (400, 422):
        return Rejected(f"The provider refused the message (HTTP {status}).")
    size = "" if answer.whole else ", oversized"
    return OutcomeUnknown(f"The provider's answer is not one we know (HTTP {status}{size}). It may have been sent.")


def _host(answer: Answer) -> str:
    """Where a redirect leads; never the address whole, which may hold what we sent."""
    try:
        host = urlsplit(answer.headers.get("Location", "")).hostname
    except ValueError:
        return ""
    return f" to {host}" if host and _HOST.fullmatch(host) and not _NUMBER.search(host) else ""


# --- OPTIONS ----------------------------------------------------------------------------------------------------------


def _url(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("url: give the address of the gateway.")
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("url: it must begin with http:// or https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise ValueError("url: give the user and password as `auth`; an address ends up in logs.")
    if "{" in given:
        raise ValueError("url: placeholders go into `query`, `headers`, `form` or `json`.")
    return given


def _method(given: Any) -> str:
    method = "POST" if given is None else given
    if method not in METHODS:
        raise ValueError(f"method: it must be one of {', '.join(METHODS)}.")
    return str(method)


def _seconds(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given <= 0:
        raise ValueError("timeout_s: it must be a positive number of seconds.")
    return float(given)


def _token(given: Any) -> str | None:
    if given is not None and (not isinstance(given, str) or not _PATH_SEGMENT.fullmatch(given)):
        raise ValueError("receipt_token: use letters, digits and . _ ~ - only; it becomes part of an address.")
    return given


def _fields(option: str, given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(type(value) in (str, int, float) for value in given.values()):
        raise ValueError(f"{option}: it must be an object of names with texts or numbers.")
    return {name: str(value) for name, value in given.items()}


def _headers(given: dict[str, str], auth: Any) -> dict[str, str]:
    names = [name.lower() for name in given]
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value) or value != value.strip():
            raise ValueError(f"headers: {name!r} is not a header, or its value holds what a header cannot.")
        if name.lower() in _OURS or names.count(name.lower()) > 1:
            raise ValueError(f"headers: {name} is set twice, or not for OPTIONS to set.")
    defaults = {"User-Agent": "SMS Portal", "Accept": "*/*", "Accept-Encoding": "identity"}
    if auth is not None:
        if not isinstance(auth, list | tuple) or len(auth) != 2 or not all(isinstance(part, str) for part in auth):
            raise ValueError('auth: give ["user", "password"].')
        if "authorization" in names:
            raise ValueError("Give `auth` or an Authorization header, not both.")
        # RFC 7617, in UTF-8; requests would take it for latin-1.
        defaults["Authorization"] = f"Basic {b64encode(':'.join(auth).encode()).decode()}"
    return {**{name: value for name, value in defaults.items() if name.lower() not in names}, **given}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
