"""Asking a plain HTTP gateway what became of a message, as OPTIONS describe it in `look_up`."""

import math
from typing import Any

import requests

from outbox.providers.base import DeliveryReceipt, Inquiry, NeverReceived
from outbox.providers.http import request
from outbox.providers.http.answers import MISSING, Rule, read_json, read_rules
from outbox.providers.http.receipts import Callbacks
from outbox.providers.http.request import RequestTemplate
from smsportal.calls import Answer

KNOWN = {*request.KNOWN, "found", "never_received", "answer", "after_s", "never_received_after_s"}
FOUND = {"status": [200]}


class StatusQuery:
    """The gateway's own status query; `given` is the `look_up` of OPTIONS. Raises ValueError.

    receipts: how callbacks are read; the answers are read in the same way, unless `answer` says otherwise.
    """

    def __init__(self, given: Any, auth: Any, receipts: Callbacks | None) -> None:
        if not isinstance(given, dict) or (unknown := given.keys() - KNOWN):
            what = f"does not know {', '.join(sorted(unknown))}" if isinstance(given, dict) else "must be an object"
            raise ValueError(f"look_up: {what}; it holds {', '.join(sorted(KNOWN))}.")
        try:
            placeholders = {"reference", "id", "recipient", "msisdn"}
            # An address ends up in logs: no numbers there.
            self._template = RequestTemplate(
                given, auth, placeholders=placeholders, in_url={"reference", "id"}, method="GET"
            )
        except ValueError as error:
            raise ValueError(f"look_up: {error}") from None
        if not self._template.names & {"reference", "id"}:
            raise ValueError("look_up: the request must hold {reference} or {id}.")
        self._found: list[Rule] = read_rules("look_up: found", given.get("found", FOUND))
        self._never_received: list[Rule] = read_rules("look_up: never_received", given.get("never_received"))
        answer = Callbacks(given["answer"], option="look_up: answer") if given.get("answer") is not None else receipts
        if answer is None:
            raise ValueError("look_up: say in `answer`, as in `receipt`, how its answers are read.")
        self._answer = answer
        self.after_s = _seconds("after_s", given.get("after_s", 30.0))
        self.never_received_after_s = _seconds("never_received_after_s", given.get("never_received_after_s", 600.0))

    def fill(self, inquiry: Inquiry) -> requests.PreparedRequest | None:
        """The request that asks about a message; None when the gateway's id is needed and nobody knows it."""
        if inquiry.provider_message_id is None and "id" in self._template.names:
            return None
        return self._template.fill(
            {
                "reference": inquiry.reference,
                "id": inquiry.provider_message_id or "",
                "recipient": inquiry.recipient,
                "msisdn": inquiry.recipient.removeprefix("+"),
            }
        )

    def read(self, answer: Answer) -> DeliveryReceipt | NeverReceived | None:
        """What an answer says; None when it is not one that OPTIONS list, or says nothing of use."""
        document = read_json(answer.body)
        never = any(rule.fits(answer, document) for rule in self._never_received)
        found = any(rule.fits(answer, document) for rule in self._found)
        if never and not found:
            return NeverReceived()
        if never or not found or document is MISSING:
            return None
        receipt = self._answer.receipt_in(document, {})
        return None if receipt.status == "unrecognised" else receipt


def _seconds(option: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not (math.isfinite(given) and given > 0):
        raise ValueError(f"look_up: {option}: it must be a positive number of seconds.")
    return float(given)
