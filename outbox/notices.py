"""Tell users what became of their messages, their webhooks at once and themselves of what failed; and the staff of
what only they can settle.

Called in the transaction that writes the fact, after its money has moved; what is told outside is the worker's to do.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models.functions import Now

from outbox.models import Outbox
from smsportal import notices
from smsportal.models import Notice, User, WebhookEndpoint
from smsportal.webhooks import events

Event = WebhookEndpoint.Event
KIND = "sms.failed"
TEXT = "Messages failed. Each of them says why, and can be sent again."
UNKNOWN_IS_LATE = timedelta(hours=1)
UNKNOWN_TEXT = (
    "Of some messages it has been unknown for over an hour whether they were sent. Ask the provider, and settle them"
    " under “Unknown outcomes”: until then their money stays held."
)


def sent(entries: Iterable[Outbox]) -> None:
    """A provider has accepted them."""
    _record(Event.SENT, entries)


def delivered(entry: Outbox) -> None:
    """The handset has it, whatever was thought before."""
    _record(Event.DELIVERED, [entry])
    notices.withdraw_messages(KIND, [entry.pk])


def sent_again(entry: Outbox) -> None:
    """Its user knows that it had failed."""
    notices.withdraw_messages(KIND, [entry.pk])


def failed(entries: Iterable[Outbox]) -> None:
    """They will not be sent, unless their user sends them again."""
    entries = list(entries)
    _record(Event.FAILED, entries)
    by_user: dict[UUID, list[UUID]] = defaultdict(list)
    for entry in entries:
        by_user[entry.user_id].append(entry.pk)
    told = User.objects.filter(pk__in=by_user, failure_alerts=True).order_by("pk").values_list("pk", flat=True)
    for user_id in told if by_user else ():  # in the same order for everybody: no deadlock
        notices.tell_of_messages(user_id, KIND, TEXT, by_user[user_id])


def _record(event: Event, entries: Iterable[Outbox]) -> None:
    entries = list(entries)
    if entries:
        events.record(event, {entry.user_id for entry in entries}, lambda: _facts([entry.pk for entry in entries]))


def _facts(ids: list[UUID]) -> list[events.Fact]:
    """As they are now: what changed them did so behind the objects' backs."""
    entries = Outbox.objects.filter(pk__in=ids).select_related("user").order_by("pk")
    return [(entry.user_id, facts_of(entry)) for entry in entries]


def facts_of(entry: Outbox) -> dict[str, Any]:
    """What a webhook is told of a message: by the API's names, and neither its text nor its number."""
    return {
        "outboxId": str(entry.pk),
        "userId": str(entry.user.live_id),
        "messageId": entry.message_id,
        "status": entry.status,
        "outcome": entry.outcome,
        "deliveryStatus": entry.delivery_status,
        "errorCode": entry.error_code,
        "chargeStatus": entry.charge_status,
        "smsUnitsUsed": entry.segments,
        "totalCost": float(entry.total_cost),
        "currency": entry.currency,
        "retryCount": entry.retry_count,
        "maxRetries": entry.max_retries,
        "tags": entry.tags,
    }


def watch_unknown() -> None:
    """Tell the staff while outcomes stay unknown for so long that no receipt is likely to come."""
    late = Outbox.objects.doubtful().filter(last_attempt_at__lt=Now() - UNKNOWN_IS_LATE)
    if late.exists():
        notices.tell_staff("unknown", "outcomes", UNKNOWN_TEXT, Notice.Level.WARNING)
    else:
        notices.end_for_staff("unknown", "outcomes")
