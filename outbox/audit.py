"""Proof of the outbox: every message, its attempts and its money tell the same story."""

from collections.abc import Iterator

from billing import audit as billing_audit

CHECKS = {
    # P5
    "outbox {0}: total cost {1} is not {2} segments at {3}": """
        SELECT id, total_cost, segments, price_per_segment FROM outbox_outbox
        WHERE total_cost <> segments * price_per_segment
    """,
    # P3, P6: the charge status is what the ledger says of the present hold.
    "outbox {0}: charge status is {1}, the ledger says {2}": """
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
    "outbox {0}: costs {1}, and {2} was held for it": """
        SELECT entry.id, entry.total_cost, hold.amount
        FROM outbox_outbox AS entry
        JOIN billing_posting AS hold ON hold.kind = 'hold' AND hold.reference = entry.id || '/' || entry.retry_count
        WHERE hold.amount <> entry.total_cost
    """,
    "posting {0}: a hold for {1}, which is in no outbox": """
        SELECT hold.id, hold.reference FROM billing_posting AS hold
        LEFT JOIN outbox_outbox AS entry ON entry.id::text = split_part(hold.reference, '/', 1)
        WHERE hold.kind = 'hold' AND entry.id IS NULL
    """,
    # P6: a charge and an accepted attempt belong to each other, one to one.
    "posting {0}: charges {1}, for which {2} attempts were accepted": """
        SELECT capture.id, capture.reference, COUNT(attempt.id)
        FROM billing_posting AS capture
        LEFT JOIN outbox_attempt AS attempt
            ON attempt.hold_reference = capture.reference AND attempt.outcome = 'accepted'
        WHERE capture.kind = 'capture'
        GROUP BY capture.id, capture.reference HAVING COUNT(attempt.id) <> 1
    """,
    "attempt {0} of outbox {1}: accepted, and not charged": """
        SELECT attempt.number, attempt.outbox_id
        FROM outbox_attempt AS attempt
        LEFT JOIN billing_posting AS capture
            ON capture.kind = 'capture' AND capture.reference = attempt.hold_reference
        WHERE attempt.outcome = 'accepted' AND capture.id IS NULL
    """,
    # The message is where its latest attempt has brought it.
    "outbox {0}: has made {1} attempts, {2} are on record": """
        SELECT entry.id, entry.attempt_count, COUNT(attempt.id)
        FROM outbox_outbox AS entry LEFT JOIN outbox_attempt AS attempt ON attempt.outbox_id = entry.id
        GROUP BY entry.id HAVING COUNT(attempt.id) <> entry.attempt_count
    """,
    "outbox {0}: is pending, neither waiting, nor in a provider's hands, nor unknown": """
        SELECT entry.id FROM outbox_outbox AS entry
        LEFT JOIN outbox_attempt AS attempt
            ON attempt.outbox_id = entry.id AND attempt.number = entry.attempt_count
        WHERE entry.status = 'pending' AND entry.due_at IS NULL AND entry.outcome IS NULL
          AND (attempt.id IS NULL OR attempt.outcome IS NOT NULL)
    """,
    "outbox {0}: is sent, but no attempt was accepted and no receipt came": """
        SELECT entry.id FROM outbox_outbox AS entry
        WHERE entry.status = 'sent' AND entry.delivery_status IS NULL AND NOT EXISTS (
            SELECT FROM outbox_attempt AS attempt
            WHERE attempt.outbox_id = entry.id AND attempt.number = entry.attempt_count
              AND attempt.outcome = 'accepted'
        )
    """,
    # P11: five minutes past its time, something is stuck.
    "outbox {0}: has been due since {1}, and nobody takes it": """
        SELECT id, due_at FROM outbox_outbox WHERE due_at < now() - interval '5 minutes'
    """,
    "attempt {0} of outbox {1}: its lease ended at {2}, and nobody has noticed": """
        SELECT number, outbox_id, lease_expires_at FROM outbox_attempt
        WHERE outcome IS NULL AND lease_expires_at < now() - interval '5 minutes'
    """,
}


def broken() -> Iterator[str]:
    """One sentence for each row of books and outbox that does not agree with the others."""
    yield from billing_audit.broken()
    yield from billing_audit.findings(CHECKS)
