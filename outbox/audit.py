"""Proof of books and outbox: every message, its attempts, its receipts and its money tell the same story."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction

from billing import audit as billing_audit
from billing.audit import Check, findings

# Each time a message was accepted to be sent: at first, and at each resend. Its hold bears that reference.
ACCEPTANCES = """
    (SELECT id, user_id, retry_count, number, id || '/' || number AS reference
     FROM outbox_outbox CROSS JOIN generate_series(0, retry_count) AS number)
"""

CHECKS = [
    *billing_audit.CHECKS,
    # P5
    Check(
        "costs",
        "outbox {0}: total cost {1} is not {2} segments at {3}",
        """
            SELECT id, total_cost, segments, price_per_segment FROM outbox_outbox
            WHERE total_cost <> segments * price_per_segment
        """,
    ),
    Check(
        "prices",
        "outbox {0}: costs {1} {2} a segment, which no price list has for its number",
        """
            SELECT entry.id, entry.price_per_segment, entry.currency
            FROM outbox_outbox AS entry JOIN smsportal_user AS sender ON sender.id = entry.user_id
            WHERE NOT EXISTS (
                SELECT FROM billing_price AS price
                WHERE price.price_per_segment = entry.price_per_segment AND price.currency = entry.currency
                  AND (price.user_id IS NULL OR price.user_id = COALESCE(sender.live_user_id, sender.id))
                  AND starts_with(entry.recipient, '+' || price.prefix)
            )
        """,
    ),
    Check(
        "currencies",
        "outbox {0}: costs {1}, and its account is in {2}",
        """
            SELECT entry.id, entry.currency, account.currency
            FROM outbox_outbox AS entry LEFT JOIN billing_account AS account ON account.user_id = entry.user_id
            WHERE entry.currency IS DISTINCT FROM account.currency
        """,
    ),
    # P3, P6: the charge status is what the ledger says of the present hold.
    Check(
        "charge statuses",
        "outbox {0}: charge status is {1}, the ledger says {2}",
        """
            SELECT entry.id, entry.charge_status, ledger.state
            FROM outbox_outbox AS entry
            LEFT JOIN billing_posting AS hold
                ON hold.kind = 'hold' AND hold.reference = entry.id || '/' || entry.retry_count
            LEFT JOIN billing_posting AS ending ON ending.settles_id = hold.id
            CROSS JOIN LATERAL (
                SELECT CASE WHEN hold.id IS NULL THEN 'none' WHEN ending.id IS NULL THEN 'held'
                            WHEN ending.kind = 'capture' THEN 'charged' ELSE 'released' END AS state
            ) AS ledger
            WHERE entry.charge_status <> ledger.state
        """,
    ),
    Check(
        "holds",
        "outbox {0}: costs {1}, and {2} was held for it",
        """
            SELECT entry.id, entry.total_cost, hold.amount
            FROM outbox_outbox AS entry
            JOIN billing_posting AS hold ON hold.kind = 'hold' AND hold.reference = entry.id || '/' || entry.retry_count
            WHERE hold.amount <> entry.total_cost
        """,
    ),
    Check(
        "earlier holds",
        "outbox {0}: has been resent since {1}, whose hold is {2}",
        f"""
            SELECT accepted.id, accepted.reference, CASE WHEN hold.id IS NULL THEN 'missing' ELSE 'not settled' END
            FROM {ACCEPTANCES} AS accepted
            LEFT JOIN billing_posting AS hold ON hold.kind = 'hold' AND hold.reference = accepted.reference
            LEFT JOIN billing_posting AS ending ON ending.settles_id = hold.id
            WHERE accepted.number < accepted.retry_count AND ending.id IS NULL
              AND (hold.id IS NOT NULL OR accepted.number > 0)  -- the first may have failed for want of money
        """,  # noqa: S608  # a constant
    ),
    Check(
        "stray holds",
        "posting {0}: a hold on account {1} for {2}, which is in no outbox of its user",
        f"""
            SELECT hold.id, hold.account_id, hold.reference
            FROM billing_posting AS hold
            JOIN billing_account AS account ON account.id = hold.account_id
            LEFT JOIN {ACCEPTANCES} AS accepted ON accepted.reference = hold.reference
            WHERE hold.kind = 'hold' AND accepted.user_id IS DISTINCT FROM account.user_id
        """,  # noqa: S608  # a constant
    ),
    # P6: a charge and an accepted attempt belong to each other, one to one.
    Check(
        "charges",
        "posting {0}: charges {1}, for which {2} attempts were accepted",
        """
            SELECT capture.id, capture.reference, COALESCE(accepted.attempts, 0)
            FROM billing_posting AS capture
            LEFT JOIN (
                SELECT hold_reference, COUNT(*) AS attempts FROM outbox_attempt WHERE outcome = 'accepted' GROUP BY 1
            ) AS accepted ON accepted.hold_reference = capture.reference
            WHERE capture.kind = 'capture' AND accepted.attempts IS DISTINCT FROM 1
        """,
    ),
    Check(
        "accepted attempts",
        "attempt {0} of outbox {1}: accepted, and not charged",
        """
            SELECT attempt.number, attempt.outbox_id
            FROM outbox_attempt AS attempt
            LEFT JOIN billing_posting AS capture
                ON capture.kind = 'capture' AND capture.reference = attempt.hold_reference
            WHERE attempt.outcome = 'accepted' AND capture.id IS NULL
        """,
    ),
    Check(
        "paid attempts",
        "attempt {0} of outbox {1}: made for {2}, which is no hold of its message",
        f"""
            SELECT attempt.number, attempt.outbox_id, attempt.hold_reference
            FROM outbox_attempt AS attempt
            LEFT JOIN {ACCEPTANCES} AS accepted ON accepted.reference = attempt.hold_reference
            LEFT JOIN billing_posting AS hold ON hold.kind = 'hold' AND hold.reference = attempt.hold_reference
            WHERE accepted.id IS DISTINCT FROM attempt.outbox_id OR hold.id IS NULL
        """,  # noqa: S608  # a constant
    ),
    # P9: for the same money it is tried again only when nothing was sent.
    Check(
        "second attempts",
        "attempt {0} of outbox {1}: made although the one before it is {2}",
        """
            SELECT number, outbox_id, COALESCE(before, 'open') FROM (
                SELECT number, outbox_id, hold_reference, LAG(outcome) OVER attempts AS before,
                       LAG(hold_reference) OVER attempts AS paid_before
                FROM outbox_attempt WINDOW attempts AS (PARTITION BY outbox_id ORDER BY number)
            ) AS attempt
            WHERE hold_reference = paid_before AND before IS DISTINCT FROM 'unavailable'
        """,
    ),
    # The message is where its latest attempt has brought it.
    Check(
        "attempt numbers",
        "outbox {0}: has made {1} attempts; {2} are on record, numbered up to {3}",
        """
            SELECT entry.id, entry.attempt_count, COALESCE(attempt.count, 0), COALESCE(attempt.latest, 0)
            FROM outbox_outbox AS entry
            LEFT JOIN (
                SELECT outbox_id, COUNT(*) AS count, MAX(number) AS latest FROM outbox_attempt GROUP BY 1
            ) AS attempt ON attempt.outbox_id = entry.id
            WHERE entry.attempt_count <> COALESCE(attempt.count, 0)
               OR entry.attempt_count <> COALESCE(attempt.latest, 0)
        """,
    ),
    Check(
        "places",
        "outbox {0}: is {1}, and its latest attempt is {2}",
        """
            SELECT entry.id, place.name,
                   COALESCE(attempt.outcome, CASE WHEN attempt.id IS NULL THEN 'none' ELSE 'open' END)
            FROM outbox_outbox AS entry
            LEFT JOIN outbox_attempt AS attempt
                ON attempt.outbox_id = entry.id AND attempt.number = entry.attempt_count
                AND attempt.hold_reference = entry.id || '/' || entry.retry_count
            CROSS JOIN LATERAL (
                SELECT CASE WHEN entry.outcome IS NOT NULL THEN 'of unknown outcome' WHEN entry.due_at IS NOT NULL
                            THEN 'waiting' ELSE 'with a provider' END AS name
            ) AS place
            WHERE entry.status = 'pending' AND NOT CASE place.name
                WHEN 'of unknown outcome' THEN COALESCE(attempt.outcome = 'unknown', FALSE)
                WHEN 'waiting' THEN attempt.id IS NULL OR COALESCE(attempt.outcome = 'unavailable', FALSE)
                ELSE attempt.id IS NOT NULL AND attempt.outcome IS NULL END
        """,
    ),
    Check(
        "open attempts",
        "attempt {0} of outbox {1}: is open, and its message is {2}",
        """
            SELECT attempt.number, attempt.outbox_id,
                   CASE WHEN entry.status <> 'pending' THEN entry.status WHEN entry.due_at IS NOT NULL THEN 'waiting'
                        WHEN entry.outcome IS NOT NULL THEN 'of unknown outcome' ELSE 'with another attempt' END
            FROM outbox_attempt AS attempt JOIN outbox_outbox AS entry ON entry.id = attempt.outbox_id
            WHERE attempt.outcome IS NULL
              AND (entry.status <> 'pending' OR entry.due_at IS NOT NULL OR entry.outcome IS NOT NULL
                   OR entry.attempt_count <> attempt.number)
        """,
    ),
    Check(
        "sent messages",
        "outbox {0}: is sent, but no attempt was accepted and no receipt came",
        """
            SELECT entry.id FROM outbox_outbox AS entry
            WHERE entry.status = 'sent' AND entry.delivery_status IS NULL AND NOT EXISTS (
                SELECT FROM outbox_attempt AS attempt
                WHERE attempt.outbox_id = entry.id AND attempt.number = entry.attempt_count
                  AND attempt.outcome = 'accepted'
            )
        """,
    ),
    # The states there are, as the README lists them.
    Check(
        "states",
        "outbox {0}: is {1}, outcome {2}, delivery {3}, money {4}, which cannot be",
        """
            SELECT id, status, outcome, delivery_status, charge_status FROM outbox_outbox
            WHERE (status, COALESCE(outcome, ''), COALESCE(delivery_status, ''), charge_status) NOT IN (
                ('pending', '', '', 'held'), ('pending', 'unknown', '', 'held'),
                ('sent', '', '', 'charged'), ('sent', '', 'delivered', 'charged'),
                ('sent', '', 'delivered', 'released'), ('failed', '', '', 'none'),
                ('failed', '', '', 'released'), ('failed', '', 'undelivered', 'charged')
            )
        """,
    ),
    Check(
        "reasons",
        "outbox {0}: is {1}, and its reason is {2}",
        """
            SELECT id, COALESCE(outcome, status), error_code FROM outbox_outbox
            WHERE (status = 'failed' OR outcome = 'unknown') AND error_code IS NULL
               OR status = 'sent' AND error_code IS NOT NULL
        """,
    ),
    Check(
        "times",
        "outbox {0}: was handed over at {1}, sent at {2}, delivered at {3}, which does not fit its state",
        """
            SELECT id, last_attempt_at, sent_at, delivered_at FROM outbox_outbox
            WHERE (last_attempt_at IS NOT NULL) <> (attempt_count > 0)
               OR (status = 'sent' OR charge_status = 'charged') AND sent_at IS NULL
               OR (delivered_at IS NOT NULL) <> COALESCE(delivery_status = 'delivered', FALSE)
        """,
    ),
    # P16
    Check(
        "resends",
        "outbox {0}: was resent {1} times, {2} are allowed",
        """
            SELECT id, retry_count, max_retries FROM outbox_outbox WHERE retry_count > max_retries
        """,
    ),
    # P13: what a receipt has done stays done, and nothing else does it.
    Check(
        "applied receipts",
        "receipt {0}: {1} was applied to outbox {2}, which is {3}, delivery {4}",
        """
            SELECT receipt.id, receipt.status, entry.id, entry.status, entry.delivery_status
            FROM outbox_receipt AS receipt JOIN outbox_outbox AS entry ON entry.id = receipt.outbox_id
            WHERE receipt.effect = 'applied' AND NOT CASE receipt.status
                WHEN 'delivered' THEN COALESCE(entry.delivery_status = 'delivered', FALSE)
                WHEN 'undelivered' THEN entry.delivery_status IS NOT NULL OR entry.retry_count > 0
                WHEN 'in_transit' THEN entry.status <> 'pending' OR entry.retry_count > 0
                ELSE FALSE END
        """,
    ),
    Check(
        "deliveries",
        "outbox {0}: is {1}, and no receipt says so",
        """
            SELECT entry.id, entry.delivery_status FROM outbox_outbox AS entry
            WHERE entry.delivery_status IS NOT NULL AND NOT EXISTS (
                SELECT FROM outbox_receipt AS receipt
                WHERE receipt.outbox_id = entry.id AND receipt.status = entry.delivery_status
                  AND receipt.effect = 'applied'
            )
        """,
    ),
    Check(
        "receipts' messages",
        "receipt {0}: from {1}, which never had outbox {2}",
        """
            SELECT receipt.id, receipt.provider, receipt.outbox_id FROM outbox_receipt AS receipt
            WHERE receipt.outbox_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM outbox_attempt AS attempt
                WHERE attempt.outbox_id = receipt.outbox_id AND attempt.provider = receipt.provider
            )
        """,
    ),
    Check(
        "orphans",
        "receipt {0}: is kept as fitting no message, and fits attempt {1} of outbox {2}",
        """
            SELECT receipt.id, attempt.number, attempt.outbox_id
            FROM outbox_receipt AS receipt JOIN outbox_attempt AS attempt
                ON attempt.provider = receipt.provider AND attempt.provider_message_id = receipt.provider_message_id
            WHERE receipt.effect = 'orphan'
        """,
    ),
    # P10
    Check(
        "look-ups",
        "attempt {0} of outbox {1}: is to be asked about {2}, and its message is {3}",
        """
            SELECT attempt.number, attempt.outbox_id, COALESCE('at ' || attempt.look_up_at, 'never'),
                   COALESCE(entry.outcome, entry.status)
            FROM outbox_attempt AS attempt JOIN outbox_outbox AS entry ON entry.id = attempt.outbox_id
            WHERE (attempt.look_up_at IS NOT NULL)
                <> (COALESCE(entry.outcome = 'unknown', FALSE) AND attempt.number = entry.attempt_count)
        """,
    ),
    # P11: five minutes past its time, something is stuck. Waiting for a provider that is paused, or that takes its
    # messages as fast as it may, is not.
    Check(
        "due messages",
        "outbox {0}: has been due since {1}, and nobody takes it",
        """
            SELECT entry.id, entry.due_at FROM outbox_outbox AS entry
            WHERE entry.due_at < now() - interval '5 minutes' AND entry.expires_at > now()
              AND NOT EXISTS (
                  SELECT FROM outbox_attempt AS attempt
                  WHERE attempt.provider = entry.provider AND attempt.started_at > now() - interval '5 minutes'
              )
              AND NOT EXISTS (
                  SELECT FROM outbox_providerstate AS state
                  WHERE state.provider = entry.provider
                    AND (state.circuit <> 'closed' OR state.since > now() - interval '5 minutes')
              )
        """,
    ),
    Check(
        "overdue messages",
        "outbox {0}: should have ended at {1}",
        """
            SELECT id, ends_at FROM (
                SELECT id, CASE WHEN outcome = 'unknown' THEN last_attempt_at + %(unknown_hours)s * interval '1 hour'
                                ELSE expires_at END AS ends_at
                FROM outbox_outbox WHERE outcome = 'unknown' OR due_at IS NOT NULL
            ) AS entry
            WHERE ends_at < now() - interval '1 hour'
        """,
    ),
    Check(
        "leases",
        "attempt {0} of outbox {1}: its lease ended at {2}, and nobody has noticed",
        """
            SELECT number, outbox_id, lease_expires_at FROM outbox_attempt
            WHERE outcome IS NULL AND lease_expires_at < now() - interval '5 minutes'
        """,
    ),
]


def broken(checks: Iterable[Check] = CHECKS) -> Iterator[str]:
    """One sentence for each row of books and outbox that does not agree with the others; none when all is right."""
    return findings(checks, unknown_hours=settings.SMS_UNKNOWN_AFTER_HOURS)


class Extent(NamedTuple):
    """How much there is to check."""

    messages: int
    postings: int
    accounts: int


def extent() -> Extent:
    with connection.cursor() as cursor:
        cursor.execute("""
            SELECT (SELECT COUNT(*) FROM outbox_outbox), (SELECT COUNT(*) FROM billing_posting),
                   (SELECT COUNT(*) FROM billing_account)
        """)
        return Extent(*cursor.fetchone())


@contextmanager
def one_moment() -> Iterator[None]:
    """A transaction that reads, of all tables, what was committed when it began: traffic meanwhile is no finding.

    It takes as long as it takes and waits for nobody; nobody but a migration waits for it.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL statement_timeout = 0")
        yield
