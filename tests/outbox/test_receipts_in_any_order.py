"""Whichever order an answer and its receipts come in, and whatever names the message in them: the end is the same."""

import itertools
import threading
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.models import Posting
from outbox import audit, outcomes, receipts, sending
from outbox.models import Attempt, Outbox, Receipt
from outbox.providers.base import Accepted, DeliveryReceipt, OutcomeUnknown, Rejected
from tests.outbox.attempts import hand_over, lose_answer
from tests.threads import at_once


@pytest.fixture
def entry(account):
    return sending.send(account.user, recipient="+254711000001", text="Your code is 4321")


def state(entry):
    entry.refresh_from_db()
    return entry.status, entry.delivery_status, entry.charge_status


def receive(entry, status, named_by="reference", provider_id="p1", **options):
    reference = str(entry.pk) if named_by in ("reference", "both") else None
    provider_id = provider_id if named_by in ("id", "both") else None
    return receipts.apply("locmem", DeliveryReceipt(status, reference, provider_id, **options))


ENDS = {
    ("answer", "in_transit", "delivered", "undelivered", "delivered again"): ("sent", "delivered", "charged"),
    ("answer", "in_transit", "delivered", "undelivered", "undelivered again"): ("sent", "delivered", "charged"),
    ("answer", "in_transit", "undelivered", "undelivered again"): ("failed", "undelivered", "charged"),
    ("answer", "in_transit", "in_transit again"): ("sent", None, "charged"),
}


@pytest.mark.parametrize("named_by", ["reference", "id", "both"])
@pytest.mark.parametrize(("events", "end"), ENDS.items())
def test_every_order_of_answer_and_receipts_ends_alike(account, entry, events, end, named_by):
    for order in itertools.permutations(events):
        with transaction.atomic():
            attempt = hand_over(entry)
            for event in order:
                if event == "answer":
                    outcomes.settle([(attempt.pk, Accepted("p1"))])
                else:
                    receive(entry, event.split()[0], named_by)

            assert state(entry) == end, order
            assert entry.attempts.get().provider_message_id == "p1"
            assert Receipt.objects.filter(outbox=entry).count() == len(events) - 1
            assert not Receipt.objects.filter(effect="orphan").exists()
            assert Posting.objects.filter(kind="capture").count() == 1
            transaction.set_rollback(True)


receipt_events = st.tuples(
    st.sampled_from(["delivered", "undelivered", "in_transit", "unrecognised"]),
    st.sampled_from(["reference", "id", "both"]),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(receipt_events, max_size=6),
    st.integers(0, 6),
    st.sampled_from(["in time", "after its lease", "unknown, with the id"]),
)
def test_any_receipts_around_any_answer_end_as_the_best_of_them_says(account, entry, events, answered_after, answer):
    with transaction.atomic():
        attempt = hand_over(entry)
        if answer == "after its lease":
            outcomes.settle([(attempt.pk, OutcomeUnknown("The worker did not come back."))])

        def tell():
            lost = answer == "unknown, with the id"
            told = OutcomeUnknown("no clear answer", provider_message_id="p1") if lost else Accepted("p1")
            outcomes.settle([(attempt.pk, told)])

        for event in events[:answered_after]:
            receive(entry, *event)
        tell()
        for event in events[answered_after:]:
            receive(entry, *event)

        said = {status for status, _ in events} - {"unrecognised"}
        expected: tuple[str, str | None, str]
        if "delivered" in said:
            expected = ("sent", "delivered", "charged")
        elif "undelivered" in said:
            expected = ("failed", "undelivered", "charged")
        else:
            expected = ("sent", None, "charged") if said or answer == "in time" else ("pending", None, "held")
        assert state(entry) == expected
        assert not Receipt.objects.filter(effect="orphan").exists()
        assert list(audit.broken()) == []
        transaction.set_rollback(True)


def test_an_orphan_is_applied_when_the_answer_makes_its_id_known(entry, account):
    attempt = hand_over(entry)
    orphan = receive(entry, "undelivered", "id", details="absent subscriber", raw={"id": "p1"})
    assert (orphan.outbox, orphan.effect) == (None, "orphan")
    assert state(entry) == ("pending", None, "held")

    outcomes.settle([(attempt.pk, Accepted("p1"))])

    orphan.refresh_from_db()
    assert (orphan.outbox, orphan.effect, orphan.raw) == (entry, "applied", {"id": "p1"})
    assert state(entry) == ("failed", "undelivered", "charged")
    assert entry.error_details == "absent subscriber"


def test_an_orphan_is_applied_when_a_late_answer_only_adds_the_id(entry, account):
    attempt = lose_answer(entry)
    receive(entry, "delivered", "id")

    assert outcomes.settle([(attempt.pk, Accepted("p1"))]) == set()  # the answer itself changes nothing

    assert state(entry) == ("sent", "delivered", "charged")
    account.refresh_from_db()
    assert (account.balance, account.held) == (Decimal(9), Decimal(0))


def test_a_late_answer_without_a_receipt_writes_nothing_but_the_id(entry, account):
    attempt = lose_answer(entry)

    outcomes.settle([(attempt.pk, Accepted("p1"))])

    attempt.refresh_from_db()
    assert (attempt.outcome, attempt.provider_message_id) == ("unknown", "p1")
    assert state(entry) == ("pending", None, "held")
    assert entry.outcome == "unknown"


def test_an_orphan_is_applied_when_another_receipt_makes_its_id_known(entry):
    lose_answer(entry)
    orphan = receive(entry, "delivered", "id")

    assert receive(entry, "in_transit", "both").effect == "applied"

    orphan.refresh_from_db()
    assert orphan.effect == "applied"
    assert state(entry) == ("sent", "delivered", "charged")


def test_several_orphans_are_each_told_what_they_did(entry):
    attempt = lose_answer(entry)
    orphans = [receive(entry, status, "id") for status in ("in_transit", "delivered", "delivered", "undelivered")]

    outcomes.settle([(attempt.pk, Accepted("p1"))])

    for orphan in orphans:
        orphan.refresh_from_db()
    assert [orphan.effect for orphan in orphans] == ["applied", "applied", "repeated", "contradicts"]


def test_an_orphan_of_another_provider_stays_one(entry):
    attempt = hand_over(entry)
    orphan = receipts.apply("other", DeliveryReceipt("delivered", None, "p1"))

    outcomes.settle([(attempt.pk, Accepted("p1"))])

    orphan.refresh_from_db()
    assert (orphan.outbox, orphan.effect) == (None, "orphan")
    assert state(entry) == ("sent", None, "charged")


def test_an_unreadable_orphan_finds_its_message_and_changes_nothing(entry):
    attempt = hand_over(entry)
    orphan = receive(entry, "unrecognised", "id")

    outcomes.settle([(attempt.pk, Accepted("p1"))])

    orphan.refresh_from_db()
    assert (orphan.outbox, orphan.effect) == (entry, "unrecognised")


def test_the_providers_id_counts_when_the_reference_is_not_one_of_ours(entry):
    attempt = hand_over(entry)
    outcomes.settle([(attempt.pk, Accepted("p1"))])

    for reference in ("their-own", "019ab3c2-0000-7000-8000-000000000000"):
        assert receipts.apply("locmem", DeliveryReceipt("delivered", reference, "p1")).outbox == entry


def test_our_reference_goes_before_the_providers_id(account, entry):
    other = sending.send(account.user, recipient="+254711000002", text="x")
    for each, provider_id in ((entry, "p1"), (other, "p2")):
        outcomes.settle([(hand_over(each).pk, Accepted(provider_id))])

    assert receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk), "p2")).outbox == entry
    assert state(other) == ("sent", None, "charged")


def test_looking_for_orphans_costs_two_statements_for_all_answers_together(account):
    def statements(*ids):
        entries = [sending.send(account.user, recipient="+254711000001", text="x") for _ in ids]
        attempts = [hand_over(entry) for entry in entries]
        with CaptureQueriesContext(connection) as captured:
            outcomes.settle(
                (attempt.pk, Accepted(provider_id)) for attempt, provider_id in zip(attempts, ids, strict=True)
            )
        return len(captured)

    assert statements("p1", "p2", "p3", "p4") == statements(None) + 2


@pytest.mark.django_db(transaction=True)
def test_a_receipt_and_the_answer_that_names_it_never_miss_each_other(account):
    ledger.top_up(account, Decimal(40), reason="for fifty messages")
    for number in range(50):
        attempt = hand_over(sending.send(account.user, recipient="+254711000001", text="x", message_id=f"m{number}"))
        provider_id = f"p{number}"

        def act(which, attempt=attempt, provider_id=provider_id):
            if which == 0:
                return outcomes.settle([(attempt.pk, Accepted(provider_id))])
            return receipts.apply("locmem", DeliveryReceipt("delivered", None, provider_id))

        assert not [result for result in at_once(2, act) if isinstance(result, Exception)]

    assert Outbox.objects.filter(delivery_status="delivered").count() == 50
    assert not Receipt.objects.filter(effect="orphan").exists()
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_a_receipt_waits_for_an_answer_that_is_being_written(account):
    """The one gap that threads rarely find: between the answer's look for orphans and its commit."""
    attempt = hand_over(sending.send(account.user, recipient="+254711000001", text="x"))
    kept = []

    def receive_it():
        kept.append(receipts.apply("locmem", DeliveryReceipt("delivered", None, "p1")))
        connection.close()

    receiver = threading.Thread(target=receive_it)
    with transaction.atomic():
        outcomes.settle([(attempt.pk, Accepted("p1"))])
        receiver.start()
        receiver.join(0.3)
        assert kept == []
    receiver.join(10)

    assert [receipt.effect for receipt in kept] == ["applied"]
    assert Attempt.objects.get().outbox.delivery_status == "delivered"


@pytest.mark.parametrize(
    ("before", "status", "effect"),
    [
        ("delivered", "delivered", "repeated"),
        ("delivered", "in_transit", "late"),
        ("delivered", "undelivered", "contradicts"),
        ("undelivered", "undelivered", "repeated"),
        ("undelivered", "in_transit", "late"),
        ("undelivered", "delivered", "applied"),
        ("accepted", "in_transit", "repeated"),
        ("accepted", "unrecognised", "unrecognised"),
        ("rejected", "undelivered", "repeated"),  # the refusal, told twice
        ("rejected", "in_transit", "contradicts"),
        ("rejected", "delivered", "applied"),
        ("found not sent", "in_transit", "contradicts"),
        ("found not sent", "undelivered", "contradicts"),
        ("found not sent", "delivered", "applied"),
    ],
)
def test_what_a_receipt_did_is_told_in_one_word(entry, before, status, effect):
    if before == "found not sent":
        lose_answer(entry)
        outcomes.settle_unknown(entry.pk, 1, sent=False, details="It was not.")
    else:
        answer = Rejected("no") if before == "rejected" else Accepted("p1")
        outcomes.settle([(hand_over(entry).pk, answer)])
        if before in ("delivered", "undelivered"):
            receive(entry, before)
    was = state(entry)

    assert receive(entry, status).effect == effect

    assert (state(entry) != was) == (effect == "applied")
    assert list(audit.broken()) == []
