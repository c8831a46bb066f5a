"""The audit is content with honest books, and names every row that was changed by hand."""

import io

import pytest
from django.core.management import call_command
from django.db import connection

from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import OutcomeUnknown, Rejected, Unavailable


@pytest.fixture
def history(account, provider):
    """One message in each state there is, and one that was resent."""
    for number, error in enumerate([None, Rejected("no"), Unavailable("busy"), OutcomeUnknown("?")]):
        provider.error = error
        sending.send(account.user, recipient=f"+25471100000{number}", text="x")
        Dispatcher(concurrency=1).run(once=True)
    provider.error = None
    sending.resend(Outbox.objects.get(status="failed"))
    Dispatcher(concurrency=1).run(once=True)
    sending.cancel(sending.send(account.user, recipient="+254711000009", text="x"))
    sending.send(account.user, recipient="+254711000010", text="x")
    return account


def audit():
    out = io.StringIO()
    try:
        call_command("audit", stdout=out, stderr=io.StringIO())
    except SystemExit as end:
        return end.code, out.getvalue()
    return 0, out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_honest_books_are_right(history):
    assert audit() == (0, "The books are right.\n")


OUTBOX = "(SELECT id FROM outbox_outbox WHERE status = 'sent' ORDER BY id LIMIT 1)"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("corruption", "named"),
    [
        ("UPDATE billing_account SET balance = balance + 0.0001 RETURNING id", "account {}: balance"),
        ("UPDATE billing_account SET held = held + 0.0001 RETURNING id", "account {}: balance"),
        (
            "UPDATE billing_posting SET amount = amount + 1 WHERE kind = 'top_up' RETURNING id",
            "posting {}: says balance",
        ),
        (
            "UPDATE billing_posting SET balance_after = 5 WHERE kind = 'capture' RETURNING id",
            "posting {}: says balance 5",
        ),
        ("UPDATE billing_posting SET amount = 2 WHERE kind = 'release' RETURNING id", "posting {}: settles hold"),
        (
            "DELETE FROM billing_posting WHERE kind = 'capture' RETURNING split_part(reference, '/', 1)",
            "outbox {}: charge status is charged, the ledger says held",
        ),
        (
            f"UPDATE outbox_outbox SET charge_status = 'released' WHERE id = {OUTBOX} RETURNING id",
            "outbox {}: charge status is released, the ledger says charged",
        ),
        (
            f"UPDATE outbox_outbox SET segments = 2, total_cost = 2 WHERE id = {OUTBOX} RETURNING id",
            "outbox {}: costs 2.0000, and 1.0000 was held for it",
        ),
        (
            f"UPDATE outbox_outbox SET attempt_count = 7 WHERE id = {OUTBOX} RETURNING id",
            "outbox {}: has made 7 attempts, 1 are on record",
        ),
        (
            f"UPDATE outbox_attempt SET outcome = 'rejected' WHERE outbox_id = {OUTBOX} RETURNING outbox_id",
            "outbox {}: is sent, but no attempt was accepted",
        ),
        (
            "UPDATE outbox_attempt SET outcome = 'accepted' WHERE outcome = 'unknown' RETURNING outbox_id",
            "of outbox {}: accepted, and not charged",
        ),
        (
            "UPDATE outbox_outbox SET outcome = NULL WHERE outcome = 'unknown' RETURNING id",
            "outbox {}: is pending, neither waiting",
        ),
        (
            "UPDATE outbox_outbox SET due_at = now() - interval '6 minutes' WHERE due_at IS NOT NULL RETURNING id",
            "outbox {}: has been due since",
        ),
        (
            "UPDATE outbox_attempt SET outcome = NULL, finished_at = NULL, lease_expires_at = now() - interval '1 hour'"
            " WHERE outcome = 'unknown' RETURNING outbox_id",
            "of outbox {}: its lease ended",
        ),
    ],
)
def test_a_row_that_was_changed_by_hand_is_named(history, corruption, named):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_posting DISABLE TRIGGER posting_append_only")
        cursor.execute(corruption)
        corrupted = [row[0] for row in cursor.fetchall()]
        cursor.execute("ALTER TABLE billing_posting ENABLE TRIGGER posting_append_only")

    status, findings = audit()

    assert status == 1
    assert corrupted
    for row in corrupted:
        assert named.format(row) in findings
