"""The audit is content with honest books, under traffic too, and names every row that was changed by hand."""

import contextlib
import io
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from billing import ledger
from outbox import audit, circuits, outcomes, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.models import Attempt, Outbox
from outbox.providers.base import Accepted, DeliveryReceipt, OutcomeUnknown, Rejected, Unavailable
from outbox.providers.locmem import Provider as LocmemProvider
from smsportal.exceptions import DomainError
from tests.benchmarks import history as long_past
from tests.factories import UserFactory
from tests.outbox.attempts import hand_over, lose_answer
from tests.threads import at_once


@pytest.fixture
def history(account):
    """Messages that stand in every way there is; their message ids say how."""
    ledger.top_up(account, Decimal(100), reason="second payment")
    ledger.adjust(account, Decimal(-1), reason="fee")
    ledger.account_of(UserFactory())
    numbers = itertools.count(1)

    def send(name):
        return sending.send(
            account.user, recipient=f"+2547110000{next(numbers):02}", text="Your code is 4321", message_id=name
        )

    def answer(entry, result):
        outcomes.settle([(hand_over(entry).pk, result)])
        entry.refresh_from_db()

    def receive(entry, status):
        receipts.apply("locmem", DeliveryReceipt(status, str(entry.pk)))

    for name in ("sent", "delivered", "undelivered"):
        answer(send(name), Accepted(f"id-{name}"))
    for name, status in [("delivered", "in_transit"), ("delivered", "delivered"), ("undelivered", "undelivered")]:
        receive(Outbox.objects.get(message_id=name), status)
    answer(send("rejected"), Rejected("no"))
    answer(resent := send("resent"), Rejected("no"))
    answer(sending.resend(resent), Accepted("id-resent"))
    answer(tried_again := send("tried again"), Unavailable("busy"))
    answer(tried_again, Accepted("id-tried-again"))
    answer(send("busy"), Unavailable("busy"))
    lose_answer(send("unknown"))
    attempt = lose_answer(late := send("delivered late"))
    outcomes.settle_unknown(late.pk, attempt.number, sent=False, details="Not there.")
    receive(late, "delivered")
    sending.cancel(send("cancelled"))
    hand_over(send("with a provider"))
    send("new")
    receipts.apply("locmem", DeliveryReceipt("delivered", None, "nobody's"))
    return account


def test_honest_books_are_right(history):
    assert list(audit.broken()) == []


def test_the_long_past_of_the_benchmarks_is_right(db):
    long_past.write(500)

    assert Outbox.objects.count() == 500
    assert list(audit.broken()) == []


def message(name):
    return f"(SELECT id FROM outbox_outbox WHERE message_id = '{name}')"


def hold(name, number=0):
    return f"{message(name)} || '/{number}'"


AN_HOUR_AGO = """
    UPDATE outbox_attempt SET started_at = now() - interval '1 hour';
    UPDATE outbox_providerstate SET since = now() - interval '1 hour';
"""

# By check: what makes one row wrong and returns what the check has to say of it, and what keeps us from doing so.
CASES = {
    "balances": [
        "UPDATE billing_account SET balance = balance + 0.0001 WHERE balance > 0"
        " RETURNING id, balance, held, balance - 0.0001, held",
        "UPDATE billing_account SET held = held + 0.0001 WHERE balance > 0"
        " RETURNING id, balance, held, balance, held - 0.0001",
    ],
    "running balances": [
        "UPDATE billing_posting SET balance_after = balance_after + 1 WHERE id = (SELECT MAX(id) FROM billing_posting)"
        " RETURNING id, balance_after, held_after, balance_after - 1, held_after",
        "UPDATE billing_posting SET amount = amount - 1 WHERE id = (SELECT MIN(id) FROM billing_posting)"
        " RETURNING id, balance_after, held_after, balance_after - 1, 0",
    ],
    "credit limits": [
        (
            "UPDATE billing_account SET balance = held - 1 WHERE balance > 0 RETURNING id, balance, held, credit_limit",
            "billing_account DROP CONSTRAINT account_never_below_its_credit_limit",
        ),
    ],
    "settlements": [
        f"UPDATE billing_posting SET {change} WHERE kind = 'release' AND reference = {hold('cancelled')}"
        " RETURNING id, settles_id"
        for change in (
            "amount = 2",
            "reference = 'x'",
            "account_id = (SELECT MAX(id) FROM billing_account)",
            "settles_id = (SELECT MIN(id) FROM billing_posting)",
        )
    ],
    "second settlements": [
        (
            "UPDATE billing_posting SET settles_id = (SELECT settles_id FROM billing_posting WHERE kind = 'capture'"
            f" AND reference = {hold('sent')}) WHERE kind = 'release' AND reference = {hold('cancelled')}"
            " RETURNING settles_id, 2",
            "billing_posting DROP CONSTRAINT billing_posting_settles_id_key",
        ),
    ],
    "the ledger's trigger": [
        "ALTER TRIGGER posting_append_only ON billing_posting RENAME TO gone; SELECT 'posting_append_only'",
    ],
    "costs": [
        (
            f"UPDATE outbox_outbox SET total_cost = 3 WHERE id = {message('sent')}"
            " RETURNING id, total_cost, segments, price_per_segment",
            "outbox_outbox DROP CONSTRAINT outbox_cost_is_segments_times_price",
        ),
    ],
    "prices": [
        "UPDATE outbox_outbox SET price_per_segment = 0.7, total_cost = 0.7 * segments"
        f" WHERE id = {message('sent')} RETURNING id, price_per_segment, currency",
    ],
    "currencies": [
        f"UPDATE outbox_outbox SET currency = 'USD' WHERE id = {message('sent')} RETURNING id, currency, 'KES'",
    ],
    "charge statuses": [
        f"UPDATE outbox_outbox SET charge_status = 'released' WHERE id = {message('sent')}"
        " RETURNING id, charge_status, 'charged'",
        f"DELETE FROM billing_posting WHERE kind = 'capture' AND reference = {hold('sent')}"
        " RETURNING split_part(reference, '/', 1), 'charged', 'held'",
    ],
    "holds": [
        f"UPDATE outbox_outbox SET segments = 2, total_cost = 2 * price_per_segment WHERE id = {message('sent')}"
        " RETURNING id, total_cost, '1.0000'",
    ],
    "earlier holds": [
        f"DELETE FROM billing_posting WHERE kind = 'release' AND reference = {hold('resent')}"
        " RETURNING split_part(reference, '/', 1), reference, 'not settled'",
        f"UPDATE outbox_outbox SET retry_count = 3 WHERE id = {message('cancelled')}"
        " RETURNING id, id || '/1', 'missing', id, id || '/2', 'missing'",
    ],
    "stray holds": [
        f"UPDATE billing_posting SET {change} WHERE kind = 'hold' AND reference = {hold('new')}"
        " RETURNING id, account_id, reference"
        for change in ("reference = 'x'", "reference = split_part(reference, '/', 1) || '/1'")
    ]
    + [
        "UPDATE billing_posting SET account_id = (SELECT MAX(id) FROM billing_account)"
        f" WHERE kind = 'hold' AND reference = {hold('new')} RETURNING id, account_id, reference",
    ],
    "charges": [
        f"UPDATE outbox_attempt SET outcome = 'rejected' WHERE outbox_id = {message('sent')} RETURNING"
        " (SELECT id FROM billing_posting WHERE kind = 'capture' AND reference = hold_reference), hold_reference, 0",
        f"UPDATE outbox_attempt SET outcome = 'accepted' WHERE outbox_id = {message('tried again')} AND number = 1"
        " RETURNING (SELECT id FROM billing_posting WHERE kind = 'capture' AND reference = hold_reference),"
        " hold_reference, 2",
    ],
    "accepted attempts": [
        f"UPDATE outbox_attempt SET outcome = 'accepted' WHERE outbox_id = {message('unknown')}"
        " RETURNING number, outbox_id",
    ],
    "paid attempts": [
        f"UPDATE outbox_attempt SET hold_reference = {reference} WHERE outbox_id = {message('sent')}"
        " RETURNING number, outbox_id, hold_reference"
        for reference in ("'x'", hold("delivered"))
    ],
    "second attempts": [
        f"UPDATE outbox_attempt SET outcome = 'unknown' WHERE outbox_id = {message('tried again')} AND number = 1"
        " RETURNING 2, outbox_id, 'unknown'",
        f"UPDATE outbox_attempt SET hold_reference = {hold('resent')} WHERE outbox_id = {message('resent')}"
        " AND number = 2 RETURNING 2, outbox_id, 'rejected'",
    ],
    "attempt numbers": [
        f"UPDATE outbox_outbox SET attempt_count = 7 WHERE id = {message('sent')} RETURNING id, 7, 1, 1",
        f"UPDATE outbox_attempt SET number = 3 WHERE outbox_id = {message('sent')} RETURNING outbox_id, 1, 1, 3",
        f"DELETE FROM outbox_attempt WHERE outbox_id = {message('sent')} RETURNING outbox_id, 1, 0, 0",
    ],
    "places": [
        f"UPDATE outbox_outbox SET due_at = NULL WHERE id = {message('new')} RETURNING id, 'with a provider', 'none'",
        f"UPDATE outbox_outbox SET outcome = NULL WHERE id = {message('unknown')}"
        " RETURNING id, 'with a provider', 'unknown'",
        f"UPDATE outbox_outbox SET outcome = NULL, due_at = now() WHERE id = {message('unknown')}"
        " RETURNING id, 'waiting', 'unknown'",
        f"UPDATE outbox_attempt SET outcome = 'unavailable' WHERE outbox_id = {message('unknown')}"
        " RETURNING outbox_id, 'of unknown outcome', 'unavailable'",
    ],
    "open attempts": [
        f"UPDATE outbox_outbox SET due_at = now() WHERE id = {message('with a provider')} RETURNING 1, id, 'waiting'",
        f"UPDATE outbox_outbox SET status = 'failed' WHERE id = {message('with a provider')} RETURNING 1, id, 'failed'",
        f"UPDATE outbox_outbox SET attempt_count = 2 WHERE id = {message('with a provider')}"
        " RETURNING 1, id, 'with another attempt'",
        f"UPDATE outbox_outbox SET outcome = 'unknown' WHERE id = {message('with a provider')}"
        " RETURNING 1, id, 'of unknown outcome'",
    ],
    "sent messages": [
        f"UPDATE outbox_attempt SET outcome = 'rejected' WHERE outbox_id = {message('sent')} RETURNING outbox_id",
    ],
    "states": [
        f"UPDATE outbox_outbox SET {change} WHERE id = {message('sent')}"
        " RETURNING id, status, outcome, delivery_status, charge_status"
        for change in ("delivery_status = 'undelivered'", "charge_status = 'released'", "status = 'failed'")
    ],
    "reasons": [
        f"UPDATE outbox_outbox SET error_code = NULL WHERE id = {message('rejected')} RETURNING id, status, error_code",
        f"UPDATE outbox_outbox SET error_code = 'x' WHERE id = {message('sent')} RETURNING id, status, error_code",
        f"UPDATE outbox_outbox SET error_code = NULL WHERE id = {message('unknown')} RETURNING id, outcome, error_code",
    ],
    "times": [
        f"UPDATE outbox_outbox SET {time} = NULL WHERE id = {message('delivered')}"
        " RETURNING id, last_attempt_at, sent_at, delivered_at"
        for time in ("last_attempt_at", "sent_at", "delivered_at")
    ],
    "resends": [
        f"UPDATE outbox_outbox SET max_retries = 0 WHERE id = {message('resent')}"
        " RETURNING id, retry_count, max_retries",
    ],
    "applied receipts": [
        f"UPDATE outbox_outbox SET delivery_status = NULL WHERE id = {message(name)} RETURNING (SELECT id FROM"
        " outbox_receipt WHERE outbox_id = outbox_outbox.id AND effect = 'applied'),"
        f" '{name}', id, status, delivery_status"
        for name in ("delivered", "undelivered")
    ]
    + [
        f"UPDATE outbox_receipt SET outbox_id = {message('unknown')}, effect = 'applied'"
        f" WHERE outbox_id = {message('delivered')} AND status = 'in_transit'"
        " RETURNING id, status, outbox_id, 'pending', NULL",
    ],
    "deliveries": [
        f"DELETE FROM outbox_receipt WHERE outbox_id = {message('delivered')} AND effect = 'applied'"
        " RETURNING outbox_id, status",
    ],
    "receipts' messages": [
        f"UPDATE outbox_receipt SET provider = 'other' WHERE outbox_id = {message('undelivered')}"
        " RETURNING id, provider, outbox_id",
    ],
    "orphans": [
        "UPDATE outbox_receipt SET provider_message_id = 'id-sent' WHERE effect = 'orphan'"
        f" RETURNING id, 1, {message('sent')}",
    ],
    "look-ups": [
        f"UPDATE outbox_attempt SET look_up_at = NULL WHERE outbox_id = {message('unknown')}"
        " RETURNING number, outbox_id, 'never', 'unknown'",
        f"UPDATE outbox_attempt SET look_up_at = now() WHERE outbox_id = {message('sent')}"
        " RETURNING number, outbox_id, 'at ' || look_up_at, 'sent'",
    ],
    "due messages": [
        f"{AN_HOUR_AGO} UPDATE outbox_outbox SET due_at = now() - interval '6 minutes' WHERE id = {message('new')}"
        " RETURNING id, due_at",
    ],
    "overdue messages": [
        f"UPDATE outbox_outbox SET expires_at = now() - interval '2 hours' WHERE id = {message('new')}"
        " RETURNING id, expires_at",
        f"UPDATE outbox_outbox SET last_attempt_at = now() - interval '74 hours' WHERE id = {message('unknown')}"
        " RETURNING id, now() - interval '2 hours'",
    ],
    "leases": [
        f"UPDATE outbox_attempt SET lease_expires_at = now() - interval '6 minutes'"
        f" WHERE outbox_id = {message('with a provider')} RETURNING number, outbox_id, lease_expires_at",
    ],
}


def corrupt(cursor, case):
    """Change a row by hand, as somebody may who owns the database; returns what is to be said of it."""
    change, *tables = (case,) if isinstance(case, str) else case
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE billing_posting DISABLE TRIGGER USER")
    for table in tables:
        cursor.execute(f"ALTER TABLE {table}")
    cursor.execute(change)
    while cursor.description is None and cursor.nextset():
        pass
    (said,) = cursor.fetchall()
    cursor.execute("ALTER TABLE billing_posting ENABLE TRIGGER USER")
    return said


@pytest.mark.parametrize("name", CASES)
def test_a_row_that_was_changed_by_hand_is_named(history, name):
    (check,) = (one for one in audit.CHECKS if one.name == name)
    fields = 1 + max(n for n in range(9) if f"{{{n}}}" in check.sentence)
    assert list(audit.broken([check])) == []

    for case in CASES[name]:
        with transaction.atomic(), connection.cursor() as cursor:
            said = corrupt(cursor, case)
            found = sorted(audit.broken([check]))
            transaction.set_rollback(True)

        rows = [said[start : start + fields] for start in range(0, len(said), fields)]
        assert found == [check.sentence.format(*row) for row in rows], case


def test_every_check_has_its_cases():
    assert [check.name for check in audit.CHECKS] == list(CASES)


# --- what is no finding ---------------------------------------------------------------------------------------------


@pytest.fixture
def long_due(history):
    """A message that nobody has taken for an hour; returns what the audit says of it."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"{AN_HOUR_AGO} UPDATE outbox_outbox SET due_at = now() - interval '1 hour' WHERE id = {message('new')}"
        )
    return lambda: [finding for finding in audit.broken() if "nobody takes it" in finding]


def test_a_message_that_waits_for_a_paused_provider_is_not_stuck(long_due):
    assert len(long_due()) == 1

    circuits.stop("another")
    assert len(long_due()) == 1

    circuits.stop("locmem")

    assert long_due() == []


def test_a_message_in_a_queue_that_moves_is_not_stuck(long_due):
    assert len(long_due()) == 1

    Attempt.objects.filter(outbox__message_id="sent").update(started_at=Now())

    assert long_due() == []


@pytest.mark.django_db(transaction=True)
def test_all_checks_see_the_same_moment(account):
    def send():
        try:
            sending.send(account.user, recipient="+254711000001", text="x")
        finally:
            connections.close_all()

    with audit.one_moment():
        before = audit.extent()
        traffic = threading.Thread(target=send)
        traffic.start()
        traffic.join(30)
        assert audit.extent() == before

    assert audit.extent().messages == before.messages + 1


def live(account, dice):
    """Send, resend, cancel, hear of messages, and top up, whatever comes next."""
    for number in range(120):
        entry = sending.send(account.user, recipient=f"+2547110{number:05}", text="x")
        other = dice.choice(Outbox.objects.all()[:200])
        for act in (sending.resend, sending.cancel):
            with contextlib.suppress(DomainError):
                act(other)
        status = dice.choice(["delivered", "undelivered", "in_transit"])
        receipts.apply("locmem", DeliveryReceipt(status, str(other.pk)))
        ledger.top_up(account, Decimal(1), reason="more", reference=f"more-{entry.pk}")


@pytest.mark.django_db(transaction=True)
def test_traffic_while_it_looks_is_no_finding_and_is_not_held_up(account, provider, monkeypatch):
    ledger.top_up(account, Decimal(1000), reason="for many messages")
    dice = random.Random(4321)
    answers = [None, Rejected("no"), Unavailable("busy", retry_after=1), OutcomeUnknown("?", provider_message_id="p")]
    monkeypatch.setattr(
        LocmemProvider, "error", property(lambda _: dice.choice(answers), lambda *_: None), raising=False
    )
    dispatcher = Dispatcher(concurrency=8)
    acts = [lambda: live(account, dice), dispatcher.run]
    ended: list[int] = []
    audits = 0

    def act(number):
        try:
            acts[number]()
        finally:
            ended.append(number)
            dispatcher.stop()

    with ThreadPoolExecutor(1) as pool:
        traffic = pool.submit(at_once, len(acts), act)
        try:
            while not ended or not audits:
                with audit.one_moment():
                    assert list(audit.broken()) == []
                audits += 1
        finally:
            dispatcher.stop()
        assert traffic.result(60) == [None, None]

    assert Attempt.objects.exists()
    assert audits > 1


# --- the command ----------------------------------------------------------------------------------------------------


def run_command():
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("audit", stdout=out, stderr=err)
    except SystemExit as end:
        return end.code, out.getvalue().splitlines(), err.getvalue()
    return 0, out.getvalue().splitlines(), err.getvalue()


@pytest.mark.django_db(transaction=True)
def test_the_command_says_what_it_checked(account):
    sending.send(account.user, recipient="+254711000001", text="x")

    status, (line,), progress = run_command()

    assert (status, progress) == (0, "")
    assert line.startswith("Checked 1 messages, 2 postings and 1 accounts in ")
    assert line.endswith(" s: the books are right.")


@pytest.mark.django_db(transaction=True)
def test_the_command_names_what_is_broken_and_fails(account):
    account.balance = Decimal(11)
    account.save()

    status, lines, progress = run_command()

    assert (status, progress) == (1, "")
    assert lines[0] == (
        f"account {account.pk}: balance 11.0000 and held 0.0000, but its postings add up to 10.0000 and 0"
    )
    assert lines[-1].endswith(" s: 1 broken.")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("options", "shown"), [({}, True), ({"no_progress": True}, False)])
def test_the_progress_is_shown_on_a_terminal_unless_told_not_to(account, options, shown):
    terminal = Terminal()

    call_command("audit", stdout=io.StringIO(), stderr=terminal, **options)

    assert ("audit:" in terminal.getvalue()) is shown
