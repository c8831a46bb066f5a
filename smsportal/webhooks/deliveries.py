"""Tell endpoints what happened: signed, tried again for days, and given up for good when they say so.

Nothing of an answer but its status is kept: its body is nobody's business, least of all his who gave the address.
"""

import logging
import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from uuid import UUID

import requests
from django.db import transaction
from django.db.models import Case, F, Q, QuerySet, When, Window
from django.db.models.functions import Now, RowNumber
from standardwebhooks import Webhook

from smsportal import chores, notices
from smsportal.calls import Caller, CallFailed
from smsportal.chores import Chore
from smsportal.conflicts import repeated_on_conflict
from smsportal.models import Notice, WebhookDelivery, WebhookEndpoint
from smsportal.webhooks.addresses import may_connect

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
LEASE_S = 30  # of one delivery: its time-out, and what a busy worker may need on top
PLACES = 16  # deliveries at once in one process
PLACES_OF_ENDPOINT = 4  # of them to one endpoint: a slow one must not keep the others waiting
PLACES_OF_USER = 6  # nor one user, with however many endpoints and events, the other users
# As the specification recommends: 3 days in all.
PAUSES_S = [5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600]
KEPT_FOR = timedelta(days=30)
GONE = 410
UNREACHABLE = "It could not be reached."


@dataclass(frozen=True)
class Delivery:
    """One delivery that is ours until its lease ends."""

    id: UUID
    endpoint_id: UUID
    user_id: UUID
    url: str
    secret: str
    body: str
    attempt: int


@dataclass(frozen=True)
class Answer:
    """What an endpoint said. status: None when it said nothing; then `error` is a sentence."""

    status: int | None
    error: str | None = None

    @property
    def is_good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@transaction.atomic
def claim(under_way: list[Delivery]) -> list[Delivery]:
    """Take deliveries that are due, endpoint by endpoint in turn, and of no endpoint or user more than its share."""
    of_endpoint = Counter(delivery.endpoint_id for delivery in under_way)
    of_user = Counter(delivery.user_id for delivery in under_way)
    free = PLACES - len(under_way)
    if free <= 0:
        return []
    chosen: list[WebhookDelivery] = []
    for delivery in _next(free, [user_id for user_id, count in of_user.items() if count >= PLACES_OF_USER]):
        endpoint = delivery.endpoint
        if (
            len(chosen) < free
            and of_endpoint[endpoint.pk] < PLACES_OF_ENDPOINT
            and of_user[endpoint.user_id] < PLACES_OF_USER
        ):
            of_endpoint[endpoint.pk] += 1
            of_user[endpoint.user_id] += 1
            chosen.append(delivery)
    WebhookDelivery.objects.filter(pk__in=[delivery.pk for delivery in chosen]).update(
        due_at=Now() + timedelta(seconds=LEASE_S), last_attempt_at=Now(), attempts=F("attempts") + 1
    )
    return [
        Delivery(
            delivery.pk,
            delivery.endpoint_id,
            delivery.endpoint.user_id,
            delivery.endpoint.url,
            delivery.endpoint.secret,
            delivery.body,
            delivery.attempts + 1,
        )
        for delivery in chosen
    ]


def _next(free: int, satisfied: list[UUID]) -> QuerySet[WebhookDelivery]:
    """What is due of users that are not `satisfied`, locked: first the oldest of each endpoint, then the next."""
    turn = Window(RowNumber(), partition_by=F("endpoint"), order_by=["due_at", "pk"])
    due = WebhookDelivery.objects.filter(due_at__lte=Now(), endpoint__disabled_at=None)
    due = due.exclude(endpoint__user__in=satisfied).annotate(turn=turn).filter(turn__lte=PLACES_OF_ENDPOINT)
    order = list(due.order_by("turn", "due_at", "pk").values_list("pk", flat=True)[: free * PLACES_OF_ENDPOINT])
    locked = WebhookDelivery.objects.filter(pk__in=order, due_at__lte=Now()).select_related("endpoint")
    in_turn = Case(*(When(pk=pk, then=number) for number, pk in enumerate(order)), default=0)
    return locked.select_for_update(skip_locked=True, of=("self",)).order_by(in_turn)


@cache
def _caller() -> Caller:
    return Caller(may_connect=may_connect)


def tell(delivery: Delivery) -> Answer:
    """Call the endpoint; never raises, and touches no database."""
    try:
        answer = _caller().call(_signed(delivery), TIMEOUT_S)
    except CallFailed as failed:
        late = f"No answer within {TIMEOUT_S:g} s." if failed.late else UNREACHABLE
        return Answer(None, f"Not called: {failed.trouble}." if not failed.handed_over and failed.trouble else late)
    except Exception:
        logger.exception("webhook delivery %s: cannot be sent", delivery.id)
        return Answer(None, "The request could not be made.")
    return Answer(answer.status)


def _signed(delivery: Delivery) -> requests.PreparedRequest:
    now, name = datetime.now(UTC), f"msg_{delivery.id}"
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "SMS Portal webhooks",
        "Accept-Encoding": "identity",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(delivery.secret).sign(name, now, delivery.body),
    }
    return requests.Request("POST", delivery.url, headers=headers, data=delivery.body.encode()).prepare()


@transaction.atomic
def finish(delivery: Delivery, answer: Answer) -> None:
    """Write what came of it: done, again later, or given up with the endpoint disabled."""
    facts = {"last_status": answer.status, "last_error": answer.error}
    mine = WebhookDelivery.objects.filter(pk=delivery.id, attempts=delivery.attempt, delivered_at=None)
    if answer.is_good:
        mine.update(**facts, delivered_at=Now(), due_at=None)
    elif answer.status == GONE:
        if mine.update(**facts, due_at=None):
            disable(delivery.endpoint_id, "It answered 410 Gone.")
    elif delivery.attempt > len(PAUSES_S):
        if mine.update(**facts, due_at=None):
            disable(delivery.endpoint_id, "It could not be told of an event for three days.")
    else:
        pause = PAUSES_S[delivery.attempt - 1] * random.uniform(1, 1.25)  # noqa: S311  # no secret
        mine.update(**facts, due_at=Now() + timedelta(seconds=pause))


def disable(endpoint_id: UUID, reason: str) -> None:
    """Call an endpoint no more until its user enables it, and tell him. What waits for it goes on waiting."""
    if not WebhookEndpoint.objects.filter(pk=endpoint_id, disabled_at=None).update(
        disabled_at=Now(), disabled_reason=reason
    ):
        return
    endpoint = WebhookEndpoint.objects.get(pk=endpoint_id)
    text = f"Your webhook {endpoint_id} is disabled: {reason} Mend it and enable it again in the settings."
    notices.tell_user(endpoint.user_id, "webhook.disabled", str(endpoint_id), text, Notice.Level.CRITICAL)


@repeated_on_conflict
@transaction.atomic
def remove(endpoint_id: UUID) -> None:
    """Forget an endpoint and all that was told to it or was to be."""
    # First the lock, so that nothing comes to it while its deliveries go.
    for endpoint in WebhookEndpoint.objects.select_for_update().filter(pk=endpoint_id):
        endpoint.delete()


def enable(endpoint: WebhookEndpoint) -> None:
    """Call it again, also about what waits for it."""
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(disabled_at=None, disabled_reason=None)
    notices.end_for_user(endpoint.user_id, "webhook.disabled", str(endpoint.pk))


def replay(delivery: WebhookDelivery) -> None:
    """Tell it once more, now, with the same id and body: a receiver that had it knows it again."""
    WebhookDelivery.objects.filter(pk=delivery.pk).filter(Q(due_at=None) | Q(due_at__gt=Now())).update(
        due_at=Now(), attempts=0, delivered_at=None
    )


def purge() -> int:
    """Forget some deliveries that are older than KEPT_FOR and done, or whose endpoint is disabled; returns how many."""
    over = Q(due_at=None) | Q(endpoint__disabled_at__lt=Now() - KEPT_FOR)
    return chores.forget(WebhookDelivery.objects.filter(over, created_at__lt=Now() - KEPT_FOR).order_by("created_at"))


CHORE = Chore("webhooks", PLACES, claim, tell, finish)
