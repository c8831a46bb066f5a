"""Delivery receipts: kept as they came, matched by our own id, and only ever forward."""

import itertools
from decimal import Decimal

import pytest

from outbox import outcomes, receipts, sending
from outbox.dispatch import Dispatcher, claim
from outbox.models import Outbox, Receipt
from outbox.providers.base import Accepted, DeliveryReceipt, OutcomeUnknown, Rejected, Unavailable


def drain():
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def entry(account):
    return sending.send(account.user, recipient="+254711000001", text="Your code is 4321")


def receive(entry, status, provider_message_id=None, **options):
    return receipts.apply("locmem", DeliveryReceipt(status, str(entry.pk), provider_message_id, **options))


def state(entry):
    entry.refresh_from_db()
    return entry.status, entry.delivery_status, entry.charge_status


def test_delivered_is_noted_once_and_repetitions_do_no_harm(entry, provider, account):
    drain()

    effects = [receive(entry, "delivered").effect for _ in range(10)]

    assert effects == ["applied"] + ["repeated"] * 9
    assert state(entry) == ("sent", "delivered", "charged")
    assert entry.delivered_at is not None
    account.refresh_from_db()
    assert account.balance == Decimal(9)


def test_undelivered_turns_sent_to_failed_and_stays_charged(entry, provider):
    drain()

    receive(entry, "undelivered", details="absent subscriber")

    assert state(entry) == ("failed", "undelivered", "charged")
    assert (entry.error_code, entry.error_details) == ("undelivered", "absent subscriber")


@pytest.mark.parametrize("later", ["undelivered", "in_transit", "unrecognised"])
def test_delivered_is_final(entry, provider, later):
    drain()
    receive(entry, "delivered")

    assert receive(entry, later).effect != "applied"

    assert state(entry) == ("sent", "delivered", "charged")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("delivered", ("sent", "delivered", "charged")),
        ("in_transit", ("sent", None, "charged")),
        ("undelivered", ("failed", "undelivered", "charged")),
        ("unrecognised", ("pending", None, "held")),
    ],
)
def test_a_receipt_alone_settles_a_message_whose_answer_was_lost(entry, provider, account, status, expected):
    provider.error = OutcomeUnknown("no answer")
    drain()

    receive(entry, status, "p1")

    assert state(entry) == expected
    account.refresh_from_db()
    assert account.held == (1 if status == "unrecognised" else 0)


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["answer", "in_transit", "delivered", "delivered again"]))
)
def test_the_order_of_answer_and_receipts_makes_no_difference(entry, account, provider, order):
    (claimed,) = claim("locmem", 1)

    for event in order:
        if event == "answer":
            outcomes.settle([(claimed.attempt_id, Accepted("p1"))])
        else:
            receive(entry, event.split()[0])

    assert state(entry) == ("sent", "delivered", "charged")
    assert entry.attempts.get().provider_message_id == "p1"
    account.refresh_from_db()
    assert (account.balance, account.held) == (Decimal(9), Decimal(0))


@pytest.mark.parametrize("late", [Rejected("no"), Unavailable("busy"), OutcomeUnknown("no answer")])
def test_a_late_answer_does_not_undo_a_delivery(entry, account, provider, late):
    (claimed,) = claim("locmem", 1)
    receive(entry, "delivered")

    outcomes.settle([(claimed.attempt_id, late)])

    assert state(entry) == ("sent", "delivered", "charged")
    assert entry.due_at is None


def test_a_receipt_for_a_stranger_is_kept_and_changes_nothing(entry, provider):
    drain()
    for reference in ("019ab3c2-0000-7000-8000-000000000000", "nonsense", None):
        kept = receipts.apply("locmem", DeliveryReceipt("undelivered", reference, raw={"a": "b"}))
        assert (kept.outbox, kept.effect, kept.raw) == (None, "orphan", {"a": "b"})
    # Nor does one provider speak for another.
    assert receipts.apply("other", DeliveryReceipt("undelivered", str(entry.pk))).outbox is None

    assert state(entry) == ("sent", None, "charged")
    assert Receipt.objects.count() == 4


def test_the_providers_id_will_do_when_ours_is_missing(entry, provider):
    drain()

    receipts.apply("locmem", DeliveryReceipt("delivered", None, "locmem-1"))

    assert state(entry) == ("sent", "delivered", "charged")


def test_a_receipt_for_an_earlier_attempt_leaves_the_resent_message_alone(entry, provider):
    drain()
    receive(entry, "undelivered", "locmem-1")
    entry = sending.resend(Outbox.objects.get())
    drain()

    assert receive(entry, "undelivered", "locmem-1").effect != "applied"
    assert state(entry) == ("sent", None, "charged")
    assert receive(entry, "delivered", "locmem-2").effect == "applied"


@pytest.mark.parametrize("status", ["undelivered", "in_transit"])
def test_a_repeated_receipt_without_an_id_leaves_the_resent_message_alone(entry, provider, status):
    drain()
    receive(entry, "undelivered")
    entry = sending.resend(Outbox.objects.get())
    assert receive(entry, status).effect != "applied"
    assert state(entry) == ("pending", None, "held")
    drain()

    assert receive(entry, status).effect != "applied"
    assert state(entry) == ("sent", None, "charged")
    assert receive(entry, "delivered").effect == "applied"


def test_a_receipt_without_an_id_is_believed_when_no_earlier_attempt_can_be_meant(entry, provider):
    provider.error = Rejected("no")
    drain()
    provider.error = None
    entry = sending.resend(Outbox.objects.get())
    drain()

    assert receive(entry, "undelivered").effect == "applied"
    assert state(entry) == ("failed", "undelivered", "charged")


def test_delivered_after_the_window_tells_the_truth_and_leaves_the_money(entry, provider, account):
    from datetime import timedelta

    from django.db.models.functions import Now

    provider.error = OutcomeUnknown("no answer")
    drain()
    Outbox.objects.update(last_attempt_at=Now() - timedelta(hours=73))
    outcomes.end_unknown()

    receive(entry, "delivered")

    assert state(entry) == ("sent", "delivered", "released")
    account.refresh_from_db()
    assert account.balance == Decimal(10)
