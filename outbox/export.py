"""The log as CSV (RFC 4180), for people with a spreadsheet: streamed, so that a million rows need no memory."""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Any

from django.db.models import QuerySet

from outbox.models import HIDDEN, Outbox

CHUNK = 2000  # rows of one query
# A spreadsheet computes what begins so, and could be made to call out with it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

COLUMNS: dict[str, Callable[[Outbox], Any]] = {
    "outboxId": lambda entry: entry.pk,
    "createdAt": lambda entry: entry.created_at,
    "recipientPhoneNumber": lambda entry: Number(entry.recipient),
    "senderId": lambda entry: entry.sender_id,
    "message": lambda entry: HIDDEN if entry.is_private() else entry.text,
    "messageId": lambda entry: entry.message_id,
    "messageName": lambda entry: entry.message_name,
    "status": lambda entry: entry.status,
    "outcome": lambda entry: entry.outcome,
    "deliveryStatus": lambda entry: entry.delivery_status,
    "errorCode": lambda entry: entry.reason.code,
    "encoding": lambda entry: entry.encoding,
    "smsUnitsUsed": lambda entry: entry.segments,
    "costPerUnit": lambda entry: entry.price_per_segment,
    "totalCost": lambda entry: entry.total_cost,
    "currency": lambda entry: entry.currency,
    "chargeStatus": lambda entry: entry.charge_status,
    "scheduledAt": lambda entry: entry.scheduled_at,
    "lastAttemptAt": lambda entry: entry.last_attempt_at,
    "sentAt": lambda entry: entry.sent_at,
    "deliveredAt": lambda entry: entry.delivered_at,
    "retryCount": lambda entry: entry.retry_count,
    "tags": lambda entry: " ".join(entry.tags),
    "customData": lambda entry: entry.custom_data and json.dumps(entry.custom_data, ensure_ascii=False),
}


class Number(str):
    """A number in E.164: its + makes no formula, and an apostrophe would keep others from reading it."""


def rows(entries: QuerySet[Outbox]) -> Iterator[str]:
    """The lines of the file, those of many messages at once; the first holds the names of the columns."""
    yield _lines([list(COLUMNS)])
    entries = entries.order_by("-pk")
    chunk = list(entries[:CHUNK])
    while chunk:
        yield _lines([_cell(value(entry)) for value in COLUMNS.values()] for entry in chunk)
        chunk = list(entries.filter(pk__lt=chunk[-1].pk)[:CHUNK]) if len(chunk) == CHUNK else []


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case Decimal():
            return f"{value.normalize():f}"
        case Number():
            return str(value)
    text = str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def _lines(table: Any) -> str:
    buffer = StringIO()
    csv.writer(buffer).writerows(table)
    return buffer.getvalue()
