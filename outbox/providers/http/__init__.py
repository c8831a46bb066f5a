"""Any plain HTTP gateway, described by OPTIONS alone (the README lists them)."""

import hmac
import math
import re
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from django.conf import settings
from django.http import HttpRequest

from outbox.providers import base
from outbox.providers.base import (
    Accepted,
    DeliveryReceipt,
    Inquiry,
    Message,
    NeverReceived,
    OutcomeUnknown,
    ReceiptRefused,
    Rejected,
    Unavailable,
)
from outbox.providers.calls import Caller
from outbox.providers.http import request
from outbox.providers.http.answers import IdFinder, Rule, read_json, read_rules, retry_after
from outbox.providers.http.look_ups import StatusQuery
from outbox.providers.http.receipts import Callbacks
from outbox.providers.http.request import RequestTemplate
from outbox.providers.http.templates import PLACEHOLDERS, values_of
from smsportal.calls import Answer

KNOWN = {
    *request.KNOWN,
    *("auth", "timeout_s", "encoding", "accepted", "rejected", "id", "receipt_token", "receipt", "look_up"),
}
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
        self.timeout_s = _seconds("timeout_s", options.get("timeout_s", self.timeout_s))
        self.receipt_token: str | None = _token(options.get("receipt_token"))
        # What the gateway calls our GSM-7 and UCS-2: 0 and 8 in SMPP, 0 and 2 in Kannel, text and unicode elsewhere.
        self.encoding = request.fields("encoding", options.get("encoding"))
        if unknown := self.encoding.keys() - {"GSM-7", "UCS-2"}:
            raise ValueError(f"encoding: it maps GSM-7 and UCS-2, and does not know {', '.join(sorted(unknown))}.")
        self.template = RequestTemplate(options, options.get("auth"), placeholders={*PLACEHOLDERS, "receipt_url"})
        self._check_template()
        self.accepted: list[Rule] = read_rules("accepted", options.get("accepted"))
        self.rejected: list[Rule] = read_rules("rejected", options.get("rejected"))
        if not self.accepted:
            raise ValueError("accepted: say which answers mean that the message was taken.")
        self.id = IdFinder(options.get("id"))
        self.callbacks = Callbacks(options["receipt"]) if options.get("receipt") is not None else None
        self.status_query: StatusQuery | None = None
        if options.get("look_up") is not None:
            self.status_query = StatusQuery(options["look_up"], options.get("auth"), self.callbacks)
            self.look_up_after_s = self.status_query.after_s
            self.never_received_after_s = self.status_query.never_received_after_s
        self.calls = Caller()

    def _check_template(self) -> None:
        names = self.template.names
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
        return self.template.fill(values)

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

    # --- asking for what became of a message --------------------------------------------------------------------------

    def look_up(self, inquiry: Inquiry) -> DeliveryReceipt | NeverReceived | None:
        """What the gateway says of a message; None for nothing that helps. Raises Unavailable or OutcomeUnknown."""
        if self.status_query is None or (query := self.status_query.fill(inquiry)) is None:
            return None
        return self.status_query.read(self.calls.call(query, self.timeout_s))

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


def _seconds(option: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given <= 0:
        raise ValueError(f"{option}: it must be a positive number of seconds.")
    return float(given)


def _token(given: Any) -> str | None:
    if given is not None and (not isinstance(given, str) or not _PATH_SEGMENT.fullmatch(given)):
        raise ValueError("receipt_token: use letters, digits and . _ ~ - only; it becomes part of an address.")
    return given


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
