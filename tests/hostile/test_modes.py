"""Whatever a provider does after it took a message: handed over once, never failed, charged once by a receipt alone."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now

from billing import ledger
from outbox import audit, outcomes
from outbox.dispatch import call, claim
from outbox.models import Attempt, Outbox, Receipt
from tests.hostile.messages import DELIVERED, PENDING, SENT, UNKNOWN, endings, send, state, work
from tests.hostile.provider import LIES, TOOK_IT
from tests.hostile.running import running_provider
from tests.threads import until

SAYS_SO = ["accept", "slow", "same-id", "twice"]
MISBEHAVES = [mode for mode in TOOK_IT if mode not in SAYS_SO]
NEVER_DONE = {"hang", "lost-hang", "drip", "drip-body"}


@pytest.fixture
def hostile(hostile, settings, request):
    """With those that are never done it is not worth waiting long."""
    if "mode" in request.fixturenames and request.getfixturevalue("mode") in NEVER_DONE:
        settings.SMS_PROVIDERS = hostile.settings(timeout_s=1)
    return hostile


@pytest.mark.parametrize("mode", MISBEHAVES)
def test_a_message_that_was_taken_without_a_clear_answer_waits_for_its_receipt_and_is_never_sent_again(
    mode, account, hostile
):
    entry = send(account, mode)

    work()

    assert state(entry) == UNKNOWN
    work()
    assert state(entry) == UNKNOWN
    until(lambda: hostile.taken(entry.pk))
    assert hostile.taken(entry.pk) == 1
    assert endings(entry) == []
    assert list(audit.broken()) == []

    assert hostile.send_receipts("late", [str(entry.pk)]) == [200]

    assert state(entry) == DELIVERED
    work()
    assert (hostile.taken(entry.pk), endings(entry)) == (1, ["capture"])
    assert list(audit.broken()) == []


@pytest.mark.parametrize("mode", ["flood", "bomb", *SAYS_SO])
def test_an_answer_that_says_accepted_at_its_start_is_believed_however_long_it_is(mode, account, hostile, settings):
    begins = {"accepted": {"status": [200], "matches": '^{"status": "accepted"'}, "id": {"matches": '"id": "([^"]+)"'}}
    settings.SMS_PROVIDERS = hostile.settings(**begins)
    entry = send(account, mode)

    work()

    assert state(entry) == SENT
    assert endings(entry) == ["capture"]
    (taken,) = [line for line in hostile.journal() if line["reference"] == str(entry.pk)]
    assert entry.attempts.get().provider_message_id == taken["id"]


@pytest.mark.parametrize("mode", ["lost-500", "lost-hang", "lost-reset"])
def test_a_message_that_was_lost_without_a_word_gives_its_money_back_when_its_window_is_over(mode, account, hostile):
    entry = send(account, mode)
    work()
    assert state(entry) == UNKNOWN
    Outbox.objects.update(last_attempt_at=Now() - timedelta(hours=73))

    work()

    assert state(entry) == ("failed", None, None, "released")
    assert hostile.taken(entry.pk) == 0
    assert list(audit.broken()) == []


@pytest.mark.parametrize("mode", LIES)
def test_a_provider_that_takes_a_message_and_says_that_it_is_busy_is_believed_and_its_user_pays_once(
    mode, account, hostile
):
    entry = send(account, f"{mode},accept")
    work()
    assert state(entry) == PENDING
    Outbox.objects.update(due_at=Now())

    work()

    assert (state(entry), endings(entry)) == (SENT, ["capture"])
    assert hostile.taken(entry.pk) == 2  # what no caller can know
    assert list(audit.broken()) == []


# --- receipts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["accept", "hang", "reset", "500", "half-json"])
def test_a_receipt_that_overtakes_its_answer_counts_and_the_answer_adds_what_it_knows(mode, account, hostile):
    entry = send(account, f"{mode}/early")

    work()

    assert state(entry) == DELIVERED
    assert (hostile.taken(entry.pk), endings(entry)) == (1, ["capture"])
    assert entry.attempts.get().provider_message_id == hostile.journal()[-1]["id"]


FAILED = ("failed", None, "undelivered", "charged")


@pytest.mark.parametrize(
    ("manner", "answers", "end", "effects"),
    [
        ("late", [200], DELIVERED, ["applied"]),
        ("double", [200, 200], DELIVERED, ["applied", "repeated"]),
        ("reordered", [200, 200], DELIVERED, ["applied", "late"]),
        ("contradicting", [200, 200], DELIVERED, ["applied", "contradicts"]),
        ("undelivered", [200], FAILED, ["applied"]),
        ("forged", [403], None, []),
        ("for-nobody", [200], None, ["orphan"]),
    ],
)
@pytest.mark.parametrize("mode", ["accept", "500"])
def test_receipts_of_every_manner_are_answered_and_change_what_they_prove(
    mode, manner, answers, end, effects, account, hostile
):
    entry = send(account, mode)
    work()
    before = state(entry)

    assert hostile.send_receipts(manner, [str(entry.pk)]) == answers

    assert state(entry) == (end or before)
    assert list(Receipt.objects.order_by("pk").values_list("effect", flat=True)) == effects
    assert len(endings(entry)) == (state(entry)[3] == "charged")
    assert list(audit.broken()) == []


def test_receipts_are_sorted_by_our_reference_when_the_provider_gives_every_message_the_same_id(account, hostile):
    entries = [send(account, "same-id", number) for number in range(4)]
    work()
    assert {state(entry) for entry in entries} == {SENT}

    hostile.send_receipts("undelivered", [str(entries[0].pk)])
    hostile.send_receipts("late", [str(entries[2].pk)])

    assert [state(entry) for entry in entries] == [FAILED, SENT, DELIVERED, SENT]


# --- connections and crashes ------------------------------------------------------------------------------------------


def test_a_provider_that_answers_twice_never_gives_a_message_the_id_of_another(account, hostile):
    ledger.top_up(account, 80, reason="many")
    entries = [send(account, "twice", number) for number in range(80)]

    work()

    told = {str(reference): name for reference, name in Attempt.objects.values_list("outbox", "provider_message_id")}
    journal = {line["reference"]: line["id"] for line in hostile.journal()}
    assert told == {str(entry.pk): journal[str(entry.pk)] for entry in entries}


def test_a_provider_that_dies_over_a_message_and_starts_again_settles_it_by_a_receipt(
    account, hostile, settings, tmp_path
):
    journal = tmp_path / "journal"
    with running_provider(journal) as first:
        settings.SMS_PROVIDERS = first.settings(timeout_s=60)
        entry = send(account, "hang")
        worker = threading.Thread(target=_work_and_leave)
        worker.start()
        until(lambda: first.taken(entry.pk))
        first.process.kill()
        worker.join(30)
        assert state(entry) == UNKNOWN
        later = send(account, "accept", 2)
        work()
        assert (state(later), later.error_code) == (PENDING, "provider_unreachable")

    with running_provider(journal, port=first.port, site=settings.PUBLIC_URL) as second:
        assert second.send_receipts("late") == [200]
        Outbox.objects.filter(pk=later.pk).update(due_at=Now())
        work()

        assert (state(entry), state(later)) == (DELIVERED, SENT)
        assert [line["reference"] for line in second.journal()] == [str(entry.pk), str(later.pk)]
    assert list(audit.broken()) == []


def _work_and_leave():
    try:
        work()
    finally:
        connection.close()


def test_a_lease_that_ends_before_the_answer_leaves_the_outcome_to_the_receipt(account, hostile):
    """As when the worker is stopped, or killed, with the message in the provider's hands."""
    entry = send(account, "slow")
    (claimed,) = claim("hostile", 1)
    result = call(claimed)
    Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
    assert outcomes.end_leases() == 1

    assert hostile.send_receipts("late", [str(entry.pk)]) == [200]
    outcomes.settle([(claimed.attempt_id, result)])

    assert state(entry) == DELIVERED
    assert (hostile.taken(entry.pk), endings(entry)) == (1, ["capture"])
    assert list(audit.broken()) == []
