"""Delivery receipts that a plain HTTP gateway sends to `{receipt_url}`, read as OPTIONS describe them."""

import json
from typing import Any

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import HttpRequest
from django.http.multipartparser import MultiPartParserError
from django.http.request import UnreadablePostError

from outbox.providers.base import DeliveryReceipt, ReceiptRefused, ReceiptStatus, as_id, as_text
from outbox.providers.http.answers import MISSING, check_pointer, look_up, read_json

LONGEST_BODY = 64 * 1024  # bytes
MOST_FIELDS = 50  # kept as they came
LONGEST_FIELD = 500  # characters, of each of them

_NAMES = ("reference", "id", "status", "details")
_STATUSES: tuple[ReceiptStatus, ...] = ("delivered", "undelivered", "in_transit")


class Callbacks:
    """Reads callbacks; `given` is the `receipt` of OPTIONS. Its names are JSON pointers, or names of fields."""

    def __init__(self, given: Any, option: str = "receipt") -> None:
        if not isinstance(given, dict) or (unknown := given.keys() - {*_NAMES, *_STATUSES}):
            what = f"does not know {', '.join(sorted(unknown))}" if isinstance(given, dict) else "must be an object"
            raise ValueError(f"{option}: {what}; it holds {', '.join((*_NAMES, *_STATUSES))}.")
        self._names: dict[str, str] = {name: given[name] for name in _NAMES if given.get(name) is not None}
        for name, where in self._names.items():
            if not isinstance(where, str) or not where:
                raise ValueError(f"{option}: {name} must be a JSON pointer or the name of a field.")
            if where.startswith("/"):
                check_pointer(where, f"{option}: {name}")
        if "status" not in self._names:
            raise ValueError(f"{option}: say where its `status` is.")
        self._meanings = _meanings(given, option)

    def read(self, request: HttpRequest) -> DeliveryReceipt:
        """The receipt in a callback that is proved to be the provider's. Raises ReceiptRefused."""
        try:
            return self._read(request)
        except RecursionError:
            raise ReceiptRefused("The callback is nested too deeply.", authentic=True) from None
        except (SuspiciousOperation, BadRequest, MultiPartParserError, UnreadablePostError, ValueError):
            raise ReceiptRefused("The callback cannot be read.", authentic=True) from None

    def _read(self, request: HttpRequest) -> DeliveryReceipt:
        if request.method not in ("GET", "POST"):
            raise ReceiptRefused("A callback comes by GET or POST.", authentic=True)
        # Django's own limit does not count the files of a multipart body.
        if int(request.META.get("CONTENT_LENGTH") or 0) > LONGEST_BODY or len(request.body) > LONGEST_BODY:
            raise ReceiptRefused("The callback is too long.", authentic=True)
        fields: dict[str, Any] = {**request.GET.dict(), **request.POST.dict()}
        document: Any = None
        if any(where.startswith("/") for where in self._names.values()):
            document = read_json(request.body)
            if document is MISSING:
                raise ReceiptRefused("The callback is not JSON.", authentic=True)
        # Our own reference, from the address that went along with the message.
        receipt = self.receipt_in(document, fields, reference=as_id(request.GET.get("reference")))
        if not (receipt.reference or receipt.provider_message_id):
            raise ReceiptRefused("The callback names no message.", authentic=True)
        return receipt

    def receipt_in(self, document: Any, fields: dict[str, Any], reference: str | None = None) -> DeliveryReceipt:
        """What a JSON document, or fields, say of a message. reference: where they do not name it themselves."""
        found = {
            name: look_up(document, where) if where.startswith("/") else fields.get(where)
            for name, where in self._names.items()
        }
        return DeliveryReceipt(
            status=self._meanings.get(as_text(found["status"], LONGEST_FIELD) or "", "unrecognised"),
            reference=as_id(found.get("reference")) or reference,
            provider_message_id=as_id(found.get("id")),
            details=as_text(found.get("details"), LONGEST_FIELD) or None,
            raw=_bounded(fields, document),
        )


def _meanings(given: dict[str, Any], option: str) -> dict[str, ReceiptStatus]:
    meanings: dict[str, ReceiptStatus] = {}
    for meaning in _STATUSES:
        words = given.get(meaning) or []
        if not isinstance(words, list) or not all(as_text(word, LONGEST_FIELD) for word in words):
            raise ValueError(f"{option}: {meaning} must list texts or numbers.")
        for word in map(str, words):
            if meanings.setdefault(word, meaning) != meaning:
                raise ValueError(f"{option}: {word!r} cannot mean both {meanings[word]} and {meaning}.")
    return meanings


def _bounded(fields: dict[str, Any], document: Any) -> dict[str, str]:
    """Names and values as texts that any database takes; what is nested becomes JSON in a text."""
    if document is not None:
        fields = {**fields, **(document if isinstance(document, dict) else {"": document})}
    raw = {}
    for name, value in list(fields.items())[:MOST_FIELDS]:
        text = value if isinstance(value, str) else json.dumps(value)
        raw[as_text(name, LONGEST_FIELD) or ""] = as_text(text, LONGEST_FIELD) or ""
    return raw
