"""Which provider gets a message, and how messages get from one queue into another."""

from collections import defaultdict
from datetime import timedelta
from functools import reduce
from operator import or_
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from billing.pricing import prefix_of
from outbox.models import Outbox, ProviderState
from outbox.providers import TEST_PROVIDER, provider_names

NO_ROUTE_RETRY_S = 60
NO_ROUTE = ("no_route", "No provider is set up for this destination. It waits for one until it expires.")
BATCH = 500


def _routes() -> dict[str, list[str]]:
    """Providers in order of preference, by prefix: SMS_ROUTES; when that is empty, all of them for all numbers."""
    if not settings.SMS_ROUTES:
        return {"": list(settings.SMS_PROVIDERS)}
    return {prefix_of(prefix): names for prefix, names in settings.SMS_ROUTES.items()}


def providers_for(recipient: str) -> list[str]:
    """Names of the providers for a number, the preferred first, by the longest prefix that fits."""
    routes = _routes()
    digits = recipient.removeprefix("+")
    for length in range(len(digits), -1, -1):
        if names := routes.get(digits[:length]):
            return names
    return []


def choose(entry: Outbox, attempt_number: int) -> str | None:
    """The provider of a message's n-th attempt: after a provable non-send the next in line, and round again."""
    if entry.is_test:
        return TEST_PROVIDER
    names = providers_for(entry.recipient)
    return names[(attempt_number - 1) % len(names)] if names else None


@transaction.atomic
def assign() -> int:
    """Put due messages that are in nobody's queue into one; those without a route wait. Returns how many there were."""
    entries = Outbox.objects.due().filter(provider=None).select_for_update(skip_locked=True)[:BATCH]
    chosen = defaultdict(list)
    for entry in entries:
        chosen[choose(entry, entry.attempt_count + 1)].append(entry.pk)
    for provider, ids in chosen.items():
        if provider is None:
            put_off(ids, NO_ROUTE_RETRY_S, *NO_ROUTE)
        else:
            Outbox.objects.filter(pk__in=ids).update(provider=provider, error_code=None, error_details=None)
    return sum(map(len, chosen.values()))


def put_off(ids: list[UUID], seconds: float, error_code: str, error_details: str) -> None:
    """Let messages wait, and say why."""
    Outbox.objects.filter(pk__in=ids).update(
        due_at=Now() + timedelta(seconds=seconds), error_code=error_code, error_details=error_details
    )


def divert() -> int:
    """Move due messages from providers that are paused to the next in line that is not; returns how many were moved."""
    if not (paused := ProviderState.paused() - {TEST_PROVIDER}):
        return 0
    routes = _routes()
    moved = 0
    for prefix, names in routes.items():
        if healthy := [name for name in names if name not in paused]:
            longer = [other for other in routes if other.startswith(prefix) and other != prefix]
            moved += _move(Outbox.objects.due().filter(_to([prefix]), ~_to(longer), provider__in=paused), healthy[0])
    return moved


def _to(prefixes: list[str]) -> Q:
    return reduce(or_, (Q(recipient__startswith=f"+{prefix}") for prefix in prefixes), Q(pk__in=[]))


@transaction.atomic
def _move(entries: QuerySet[Outbox], provider: str | None) -> int:
    ids = [entry.pk for entry in entries.only("pk").select_for_update(skip_locked=True)[:BATCH]]
    return Outbox.objects.filter(pk__in=ids).update(provider=provider)


def reclaim() -> int:
    """Take due messages out of the queues of providers that are in the settings no more; returns of how many."""
    gone = []
    last = ""
    # From queue to queue by the index: there are few, and they may be long.
    while queue := _after(last):
        last = queue
        if queue not in provider_names():
            gone.append(queue)
    return _move(Outbox.objects.due().filter(provider__in=gone), None) if gone else 0


def _after(provider: str) -> str | None:
    waiting = Outbox.objects.filter(due_at__isnull=False, provider__gt=provider)
    return waiting.order_by("provider").values_list("provider", flat=True).first()
