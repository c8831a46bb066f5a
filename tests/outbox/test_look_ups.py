"""A provider that can be asked settles what it took without saying so; one that knows nothing changes nothing."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models import F
from django.db.models.functions import Now

from billing.models import Posting
from outbox import audit, look_ups, outcomes, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.models import Attempt, Outbox, ProviderState, Receipt
from outbox.providers.base import DeliveryReceipt, NeverReceived, Unavailable
from tests.outbox.attempts import lose_answer, unknown_message
from tests.threads import at_once


@pytest.fixture
def answers(provider):
    """A provider that can be asked from now on: what it answers, and what it was asked."""

    class Answers(list):
        says: object = None

        def look_up(self, inquiry):
            self.append(inquiry)
            if isinstance(self.says, Exception):
                raise self.says
            return self.says

    found = Answers()
    provider.look_up = found.look_up
    provider.look_up_after_s = 30.0
    return found


@pytest.fixture
def entry(account, provider):
    return unknown_message(account)


def age(entry, seconds):
    """Let the attempt of unknown outcome be that old, and due to be asked about."""
    Attempt.objects.filter(outbox=entry).update(started_at=Now() - timedelta(seconds=seconds), look_up_at=Now())


def ask_once(entry, seconds=60):
    age(entry, seconds)
    (one,) = look_ups.claim_at("locmem", 10)
    look_ups.apply(one, look_ups.ask(one))
    entry.refresh_from_db()
    return entry.status, entry.outcome, entry.delivery_status, entry.charge_status


UNKNOWN = ("pending", "unknown", None, "held")


@pytest.mark.parametrize(
    ("says", "end"),
    [
        (DeliveryReceipt("in_transit"), ("sent", None, None, "charged")),
        (DeliveryReceipt("delivered"), ("sent", None, "delivered", "charged")),
        (DeliveryReceipt("undelivered"), ("failed", None, "undelivered", "charged")),
        (DeliveryReceipt("unrecognised"), UNKNOWN),
        (DeliveryReceipt("delivered", reference="another message's"), UNKNOWN),
        (None, UNKNOWN),
        (Unavailable("busy"), UNKNOWN),
        (ZeroDivisionError("a mistake in a provider's code"), UNKNOWN),
        (NeverReceived(), UNKNOWN),  # a minute is too early to believe that
    ],
)
def test_what_the_provider_answers_settles_the_message_and_its_money(account, entry, answers, says, end):
    answers.says = says

    assert ask_once(entry) == end

    assert answers[0].reference == str(entry.pk)
    assert list(audit.broken()) == []


def test_what_the_provider_never_received_fails_and_gives_its_money_back(account, entry, answers):
    answers.says = NeverReceived()

    assert ask_once(entry, seconds=599) == UNKNOWN
    assert ask_once(entry, seconds=600) == ("failed", None, None, "released")

    assert (entry.error_code, entry.error_details) == ("not_sent", look_ups.NOT_SENT_DETAILS)
    attempt = entry.attempts.get()
    assert (attempt.outcome, attempt.error_code, attempt.look_up_at) == ("unknown", "not_sent", None)
    account.refresh_from_db()
    assert (account.balance, account.held) == (Decimal(10), Decimal(0))
    assert list(audit.broken()) == []


def test_a_settled_message_is_asked_about_no_more(entry, answers):
    answers.says = DeliveryReceipt("delivered")
    ask_once(entry)

    age(entry, 60)

    assert look_ups.claim_at("locmem", 10) == []


def test_a_late_answer_to_a_look_up_changes_nothing_twice(entry, answers):
    age(entry, 700)
    (one,) = look_ups.claim_at("locmem", 10)
    receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk)))

    look_ups.apply(one, NeverReceived())

    entry.refresh_from_db()
    assert (entry.status, entry.charge_status) == ("sent", "charged")
    assert Posting.objects.filter(kind__in=["capture", "release"]).count() == 1


def test_pauses_grow_with_the_age_of_the_attempt(entry, answers):
    for seconds, pause in ((10, 30), (60, 60), (1000, 1000), (100_000, 3600)):
        ask_once(entry, seconds)
        waits = Attempt.objects.annotate(waits=F("look_up_at") - Now()).get().waits
        assert pause - 5 < waits.total_seconds() <= pause + 1


@pytest.mark.django_db(transaction=True)
def test_two_workers_do_not_ask_about_the_same_message_at_once(account, answers):
    for number in range(5):
        age(unknown_message(account, message_id=f"m{number}"), 60)

    claimed = at_once(4, lambda _: look_ups.claim_at("locmem", 10))

    assert sorted(one.outbox_id for part in claimed for one in part) == sorted(
        Outbox.objects.values_list("pk", flat=True)
    )


def test_a_dispatcher_asks_by_itself(entry, answers, monkeypatch):
    answers.says = DeliveryReceipt("delivered")
    age(entry, 60)
    worker = Dispatcher(concurrency=1)
    original, rounds = worker._rest, []

    def rest(*, busy):
        rounds.append(busy)
        entry.refresh_from_db()
        if entry.outcome is None or len(rounds) > 300:
            worker.stop()
        original(busy=busy)

    monkeypatch.setattr(worker, "_rest", rest)
    worker.run()

    assert entry.delivery_status == "delivered"
    assert len(answers) == 1


def test_a_paused_provider_is_not_asked(entry, answers):
    ProviderState.objects.create(provider="locmem", circuit="stopped")
    age(entry, 60)

    Dispatcher(concurrency=1).run(once=True)

    assert answers == []


def test_a_provider_that_cannot_be_asked_is_not(entry, provider):
    age(entry, 60)
    Dispatcher(concurrency=1).run(once=True)  # locmem's look_up() would raise

    assert not Receipt.objects.exists()


def test_a_message_that_was_sent_again_is_not_settled_by_what_became_of_its_first_attempt(account, entry, answers):
    """The first attempt was given up, and the user sent it again: one reference, two attempts."""
    outcomes.settle_unknown(entry.pk, 1, sent=False, details="It was not.")
    again = sending.resend(Outbox.objects.get())
    lose_answer(again)
    answers.says = DeliveryReceipt("in_transit")
    Attempt.objects.filter(outbox=again, number=2).update(look_up_at=Now())

    (one,) = look_ups.claim_at("locmem", 10)
    look_ups.apply(one, look_ups.ask(one))

    again.refresh_from_db()
    assert (one.inquiry.attempt, again.outcome) == (2, "unknown")
