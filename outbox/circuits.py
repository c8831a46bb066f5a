"""When a provider may be called: a circuit breaker and a rate for each, kept in a row that all workers share.

A provider that does not answer, or refuses whatever it gets, is paused: its messages wait, unharmed, or go another way.
When the pause is over one message tries it; the answer to that one ends the pause or makes it longer.
"""

import time
from collections import Counter, defaultdict
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from outbox import outcomes
from outbox.models import ProviderState
from outbox.outcomes import NotBegun, Result
from outbox.providers import TEST_PROVIDER
from outbox.providers.base import Accepted, ProviderError, Rejected, Unavailable
from smsportal import notices
from smsportal.instants import database_now
from smsportal.models import Notice

Circuit = ProviderState.Circuit

# Points for answers that are no good, one after the other; at PAUSE_AT it is paused. What is tried again anyhow weighs
# more than what may be a message's own fault, and becomes unknown.
PAUSE_AT = 20
UNAVAILABLE_POINTS = 4
UNKNOWN_POINTS = 1
REFUSAL_POINTS = 7  # of us, not of a message: after a good answer a minute ago it takes three of them
TRUSTED_FOR = timedelta(minutes=1)
OUTAGE_PAUSES_S = (1.0, 60.0)  # the first; the longest, each pause being twice as long as the one before
REFUSAL_PAUSES_S = (15.0, 300.0)  # what only a person can mend
REPORT_WORK_S = 1.0  # how often a worker reports that all is well
KIND = "provider"


def admit(provider: str, limit: int) -> int:
    """How many messages, up to `limit`, may be handed to a provider at this moment; asked in the claim's transaction.

    Where a circuit or a rate has to be minded, the state stays locked until the claim is committed: what two workers
    take together is within it. Whoever finds it locked takes nothing; it is his turn in a moment.
    """
    state = ProviderState.objects.filter(pk=provider).first() or ProviderState.objects.get_or_create(pk=provider)[0]
    rate = rate_of(provider)
    if rate is None and state.circuit == Circuit.CLOSED:
        return limit
    locked = ProviderState.objects.select_for_update(skip_locked=True).filter(pk=provider).first()
    if locked is None:
        return 0
    now = database_now()
    if locked.circuit != Circuit.CLOSED:
        limit = 1 if locked.retry_at and locked.retry_at <= now and locked.circuit != Circuit.STOPPED else 0
    return min(limit, _free_places(locked, rate, now)) if rate else limit


def took(provider: str, messages: int, seconds: float) -> None:
    """Count what a claim has taken after admit(). seconds: within which the calls will be over, dead or alive."""
    if not messages:
        return
    rate = rate_of(provider)
    state = ProviderState.objects.get(pk=provider)
    if rate:
        now = database_now()
        state.free_at = max(state.free_at or now, now) + messages * _interval(rate)
        state.save(update_fields=["free_at"])
    if state.circuit in (Circuit.OPEN, Circuit.HALF_OPEN):
        ProviderState.objects.filter(pk=provider).update(
            circuit=Circuit.HALF_OPEN, retry_at=Now() + timedelta(seconds=seconds)
        )


def rate_of(provider: str) -> float | None:
    """MESSAGES_PER_SECOND of SMS_PROVIDERS; None for as many as there are."""
    rate: float | None = settings.SMS_PROVIDERS.get(provider, {}).get("MESSAGES_PER_SECOND")
    return rate


def _burst(rate: float) -> int:
    """How many may go at once: a tenth of a second's, since that is how often an idle worker looks."""
    return max(1, int(rate / 10))


def _interval(rate: float) -> timedelta:
    """The time of one message, such that no second ever holds more than `rate` of them, a burst included."""
    return timedelta(seconds=1 / (rate - _burst(rate) + 1))


def _free_places(state: ProviderState, rate: float, now: datetime) -> int:
    used_up = max(state.free_at or now, now) - now
    return max(0, _burst(rate) - -(-used_up // _interval(rate)))


# --- what the answers tell --------------------------------------------------------------------------------------------


class Tally:
    """What the calls of one worker have come to and nobody was told yet."""

    def __init__(self) -> None:
        self._results: dict[str, list[Result]] = defaultdict(list)
        self._report_at = 0.0

    def add(self, provider: str, result: Result) -> None:
        self._results[provider].append(result)

    def report(self, *, at_once: bool = False) -> None:
        """Record it: what is no good at once, the rest once a second."""
        in_time = at_once or time.monotonic() >= self._report_at
        for provider, results in list(self._results.items()):
            if in_time or not all(isinstance(result, Accepted | Rejected) for result in results):
                record(provider, results)
                del self._results[provider]
        if in_time:
            self._report_at = time.monotonic() + REPORT_WORK_S


@transaction.atomic
def record(provider: str, results: list[Result]) -> None:
    """Learn from a provider's answers, the oldest first: pauses it, or ends its pause, and tells the staff."""
    outcomes.count(Counter((provider, outcomes.outcome_of(result)) for result in results))
    ProviderState.objects.get_or_create(pk=provider)
    state = ProviderState.objects.select_for_update().get(pk=provider)
    now = database_now()
    failures: list[ProviderError] = []  # since the last good answer
    for result in results:
        failures = [] if isinstance(result, Accepted | Rejected) else [*failures, result]
    if len(failures) < len(results):
        _works(state, now)
    if failures and provider != TEST_PROVIDER:  # there it is what somebody wanted to see
        _fails(state, failures, now)
    state.save()


def _works(state: ProviderState, now: datetime) -> None:
    if state.circuit in (Circuit.OPEN, Circuit.HALF_OPEN):
        _close(state, now)
    state.failures = state.pauses = 0
    state.worked_at = now


def _close(state: ProviderState, now: datetime) -> None:
    state.circuit, state.since = Circuit.CLOSED, now
    state.retry_at = state.reason_code = state.reason = None
    notices.end_for_staff(KIND, state.provider)


def _fails(state: ProviderState, failures: list[ProviderError], now: datetime) -> None:
    trusted = state.worked_at is not None and now - state.worked_at < TRUSTED_FOR
    state.failures += sum(_points(failure, trusted) for failure in failures)
    worst = max(failures, key=lambda failure: _points(failure, trusted))
    probe_failed = state.circuit == Circuit.HALF_OPEN
    if not probe_failed and (state.circuit != Circuit.CLOSED or state.failures < PAUSE_AT):
        return
    refused = _refuses_us(worst)
    first, longest = REFUSAL_PAUSES_S if refused else OUTAGE_PAUSES_S
    pause = min(first * 2 ** min(state.pauses, 16), longest)
    if isinstance(worst, Unavailable) and worst.retry_after is not None:
        pause = max(pause, worst.retry_after)
    if not probe_failed:
        state.since = now
    state.circuit, state.retry_at = Circuit.OPEN, now + timedelta(seconds=pause)
    state.pauses += 1
    state.reason_code, state.reason = worst.error_code, worst.details
    if refused:
        text = f"Provider {state.provider} is paused: {worst.details} It is tried again every few minutes."
        notices.tell_staff(KIND, state.provider, text, Notice.Level.CRITICAL)
    else:
        text = f"Provider {state.provider} is paused, since it fails again and again: {worst.details}"
        notices.tell_staff(KIND, state.provider, text, Notice.Level.WARNING)


def _points(failure: ProviderError, trusted: bool) -> int:
    if isinstance(failure, NotBegun):
        return 0
    if _refuses_us(failure):
        return REFUSAL_POINTS if trusted else PAUSE_AT
    return UNAVAILABLE_POINTS if isinstance(failure, Unavailable) else UNKNOWN_POINTS


def _refuses_us(failure: ProviderError) -> bool:
    return isinstance(failure, Unavailable) and failure.refuses_us


# --- what the staff do ------------------------------------------------------------------------------------------------


@transaction.atomic
def stop(provider: str) -> None:
    """Hand a provider nothing until start()."""
    ProviderState.objects.get_or_create(pk=provider)
    ProviderState.objects.filter(pk=provider).exclude(circuit=Circuit.STOPPED).update(
        circuit=Circuit.STOPPED, since=Now(), retry_at=None, reason_code="stopped", reason="Stopped by the staff."
    )
    notices.end_for_staff(KIND, provider)


def start(provider: str) -> None:
    """Try a provider that is paused or stopped at once, with one message; what it answers decides."""
    ProviderState.objects.filter(pk=provider).exclude(circuit=Circuit.CLOSED).update(
        circuit=Circuit.OPEN, retry_at=Now(), pauses=0, reason="Started by the staff; one message tries it."
    )
