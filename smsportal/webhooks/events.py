"""What happened to a user's messages and money, written down for his endpoints with the fact itself."""

import json
from collections.abc import Callable, Iterable
from datetime import UTC
from typing import Any
from uuid import UUID

from smsportal.instants import database_now
from smsportal.models import WebhookDelivery, WebhookEndpoint

Fact = tuple[UUID, dict[str, Any]]  # whose it is, and what is told


def record(event: str, user_ids: Iterable[UUID], facts: Callable[[], Iterable[Fact]]) -> int:
    """Queue an event about each fact, for every endpoint of its user that wants it; returns how many are queued.

    In the caller's transaction: nothing is told that did not happen, and nothing that did is forgotten. `facts` is only
    called when somebody listens.
    """
    endpoints = _listening(event, set(user_ids))
    if not endpoints:
        return 0
    moment = _moment()
    deliveries = [
        WebhookDelivery(endpoint=endpoint, event=event, body=_body(event, moment, data))
        for user_id, data in facts()
        for endpoint in endpoints
        if endpoint.user_id == user_id
    ]
    return len(WebhookDelivery.objects.bulk_create(deliveries))


def _listening(event: str, user_ids: set[UUID]) -> list[WebhookEndpoint]:
    """Who wants to be told. Nobody can remove one before our transaction ends: it would fail at its very end."""
    wanting = WebhookEndpoint.objects.filter(user__in=user_ids, events__contains=[event], disabled_at=None)
    ids = list(wanting.values_list("pk", flat=True))
    if not ids:
        return []
    # As PostgreSQL does for the foreign key, but that waits for the commit. Those who tell do not wait for each other.
    locked = "SELECT * FROM smsportal_webhookendpoint WHERE id = ANY(%s) ORDER BY id FOR KEY SHARE"
    return list(WebhookEndpoint.objects.raw(locked, [ids]))


def record_test(endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Queue an event that says nothing, for the user to try his receiver."""
    return WebhookDelivery.objects.create(endpoint=endpoint, event="test", body=_body("test", _moment(), {}))


def _moment() -> str:
    return database_now().astimezone(UTC).isoformat().replace("+00:00", "Z")


def _body(event: str, moment: str, data: dict[str, Any]) -> str:
    return json.dumps({"type": event, "timestamp": moment, "data": data}, ensure_ascii=False, separators=(",", ":"))
