"""A failed message is sent again: the same row, today's price, a cap that holds."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import ledger
from outbox import idempotency, sending
from outbox.dispatch import Dispatcher
from outbox.exceptions import InFlight, NotFailed, NotPaid, RetryLimitReached
from outbox.models import Outbox
from outbox.providers.base import OutcomeUnknown, Rejected
from tests.factories import PriceFactory
from tests.threads import at_once


def drain():
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def failed(account, provider):
    provider.error = Rejected("unknown subscriber")
    entry = sending.send(account.user, recipient="+254711000001", text="Your code is 4321")
    drain()
    provider.error = None
    entry.refresh_from_db()
    assert entry.status == "failed"
    return entry


def test_a_resent_message_is_dispatched_again_at_todays_price(failed, account, provider):
    PriceFactory(prefix="254", price_per_segment=Decimal("2.5"), effective_from=timezone.now())

    entry = sending.resend(failed)
    assert (entry.status, entry.retry_count, entry.total_cost, entry.error_code) == ("pending", 1, Decimal("2.5"), None)
    drain()

    entry.refresh_from_db()
    account.refresh_from_db()
    assert (entry.status, entry.charge_status) == ("sent", "charged")
    assert [attempt.outcome for attempt in entry.attempts.all()] == ["rejected", "accepted"]
    assert (account.balance, account.held) == (Decimal("7.5"), Decimal(0))
    assert [(p.kind, p.amount) for p in entry.postings()] == [
        ("hold", 1),
        ("release", 1),
        ("hold", Decimal("2.5")),
        ("capture", Decimal("2.5")),
    ]


@pytest.mark.parametrize("state", ["pending", "sent", "unknown"])
def test_only_a_failed_message_is_sent_again(account, provider, state):
    entry = sending.send(account.user, recipient="+254711000001", text="Your code is 4321")
    if state == "unknown":
        provider.error = OutcomeUnknown("no answer")
    if state != "pending":
        drain()
    entry.refresh_from_db()
    held = ledger.account_of(account.user).held

    with pytest.raises(NotFailed):
        sending.resend(entry)

    assert ledger.account_of(account.user).held == held
    assert Outbox.objects.get().retry_count == 0


def test_a_resent_message_may_wait_as_long_as_it_was_first_allowed_to(account, provider):
    provider.error = Rejected("no")
    entry = sending.send(account.user, recipient="+254711000001", text="Your code is 4321", validity_minutes=5)
    drain()

    entry = sending.resend(Outbox.objects.get())

    assert entry.due_at is not None
    assert entry.expires_at - entry.due_at == timedelta(minutes=5)


def test_the_cap_holds(failed, provider):
    provider.error = Rejected("unknown subscriber")
    for _ in range(3):
        failed = sending.resend(failed)
        drain()
        failed.refresh_from_db()

    with pytest.raises(RetryLimitReached) as refused:
        sending.resend(failed)

    assert refused.value.members == {"retryCount": 3, "maxRetries": 3}
    assert len(provider.messages) == 4


def test_a_resend_that_is_not_covered_changes_and_counts_nothing(failed, account):
    ledger.adjust(account, Decimal("-9.5"), reason="correction")

    with pytest.raises(NotPaid):
        sending.resend(failed)

    after = Outbox.objects.get()
    assert (after.status, after.retry_count, after.charge_status) == ("failed", 0, "released")


def test_a_message_refused_for_funds_is_resendable_after_a_top_up(account, provider):
    ledger.adjust(account, Decimal(-10), reason="correction")
    with pytest.raises(NotPaid) as refused:
        sending.send(account.user, recipient="+254711000001", text="Your code is 4321")
    ledger.top_up(account, Decimal(1), reason="payment")

    sending.resend(refused.value.entry)
    drain()

    assert Outbox.objects.get().status == "sent"


def test_the_same_resend_request_again_finds_the_first(failed):
    request = idempotency.Request(failed.user, "resend", "key")
    sending.resend(failed, request=request)

    with pytest.raises(idempotency.Repeated):
        sending.resend(failed, request=request)

    assert Outbox.objects.get().retry_count == 1


@pytest.mark.django_db(transaction=True)
def test_of_forty_racing_resends_exactly_one_wins(failed, account):
    results = at_once(40, lambda _: sending.resend(Outbox.objects.get(pk=failed.pk)))

    assert sum(isinstance(result, Outbox) for result in results) == 1
    assert sum(isinstance(result, NotFailed | InFlight) for result in results) == 39
    account.refresh_from_db()
    assert Outbox.objects.get().retry_count == 1
    assert (account.balance, account.held) == (Decimal(10), Decimal(1))


def test_a_scheduled_message_that_was_cancelled_is_sent_at_once_when_it_is_sent_again(account, provider):
    later = timezone.now() + timedelta(days=2)
    entry = sending.send(account.user, recipient="+254711000001", text="x", scheduled_at=later)
    sending.cancel(entry)

    entry = sending.resend(Outbox.objects.get(pk=entry.pk))

    assert entry.scheduled_at is None
    assert entry.expires_at < later
    assert Outbox.objects.due().get() == entry
