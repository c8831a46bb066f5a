"""A batch of receipts does to each message what the receipts do one by one, or leaves it to them."""

import pytest
from django.db import transaction

from billing import ledger
from outbox import audit, outcomes, receipts, sending
from outbox.models import Outbox, Receipt
from outbox.providers.base import Accepted, DeliveryReceipt, Rejected
from tests.factories import UserFactory
from tests.outbox.attempts import hand_over, lose_answer
from tests.threads import at_once

ACCEPTED = Accepted("p1")


@pytest.fixture
def send(account):
    ledger.top_up(account, 100, reason="many")

    def send(answer=ACCEPTED, user=account.user):
        entry = sending.send(user, recipient="+254711000001", text="x")
        if answer:
            outcomes.settle([(hand_over(entry).pk, answer)])
        return entry

    return send


def about(entry, status="delivered", provider_id=None):
    return "locmem", DeliveryReceipt(status, str(entry.pk), provider_id, details="why", raw={"a": "b"})


def state(entry):
    entry.refresh_from_db()
    kept = list(entry.receipts.values("provider", "provider_message_id", "status", "details", "raw", "effect"))
    return entry.status, entry.delivery_status, entry.charge_status, entry.error_code, entry.error_details, kept


@pytest.mark.parametrize("answer", [ACCEPTED, Rejected("no")])
@pytest.mark.parametrize("before", [None, "delivered", "undelivered"])
@pytest.mark.parametrize("status", ["delivered", "undelivered", "in_transit", "unrecognised"])
def test_a_batch_ends_as_its_receipts_would_one_by_one(send, answer, before, status):
    together, alone = send(answer), send(answer)
    for entry in (together, alone):
        if before:
            receipts.apply(*about(entry, before, "p1"))
    others = [send(), send()]

    receipts.apply(*about(alone, status, "p1"))
    done = receipts.apply_together([about(others[0]), about(together, status, "p1"), about(others[1], "undelivered")])

    assert done == [True] * 3
    assert state(together) == state(alone)
    assert [state(other)[:2] for other in others] == [("sent", "delivered"), ("failed", "undelivered")]
    assert list(audit.broken()) == []


def test_what_settles_an_outcome_or_fits_no_reference_is_left_alone(send):
    waiting, unknown, sent = send(answer=None), send(answer=None), send()
    lose_answer(unknown)
    batch = [
        about(waiting),
        about(unknown),
        ("other", about(sent)[1]),
        ("locmem", DeliveryReceipt("delivered", None, "p1")),
        ("locmem", DeliveryReceipt("delivered", "nonsense", "p9")),
    ]

    assert receipts.apply_together(batch) == [False] * 5

    assert not Receipt.objects.exists()
    assert {state(entry)[1] for entry in (waiting, unknown, sent)} == {None}


def test_a_message_counts_once_in_a_batch(send):
    entry = send()

    assert receipts.apply_together([about(entry), about(entry, "undelivered")]) == [True, False]

    assert state(entry)[:2] == ("sent", "delivered")
    assert Receipt.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_batch_waits_for_nobody(send):
    locked, free = send(), send()

    with transaction.atomic():
        Outbox.objects.select_for_update().get(pk=locked.pk)
        assert at_once(1, lambda _: receipts.apply_together([about(locked), about(free)])) == [[False, True]]

    assert (state(locked)[1], state(free)[1]) == (None, "delivered")


def test_a_batch_takes_as_many_statements_as_one(send, django_assert_num_queries):
    entries = [send() for _ in range(20)]
    receipts.apply_together([about(entry) for entry in entries])

    with django_assert_num_queries(5):  # lock, attempts, keep; and a savepoint, which is a transaction in life
        receipts.apply_together([about(entry) for entry in entries])


@pytest.mark.django_db(transaction=True)
def test_batches_about_the_same_users_in_another_order_deadlock_nobody(send):
    other = ledger.account_of(UserFactory(failure_alerts=True))
    ledger.top_up(other, 100, reason="many")

    for _ in range(10):
        mine, theirs = [send(), send()], [send(user=other.user), send(user=other.user)]
        batches = [
            [about(mine[0], "undelivered"), about(theirs[0], "undelivered")],
            [about(theirs[1], "undelivered"), about(mine[1], "undelivered")],
        ]

        assert (
            at_once(2, lambda number, batches=batches: receipts.apply_together(batches[number])) == [[True, True]] * 2
        )
