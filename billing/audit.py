"""Proof of the books: what the accounts say is what the ledger adds up to."""

from collections.abc import Iterator
from decimal import Decimal

from django.db import connection

CHECKS = {
    # P1: balance and held repeat what the postings add up to.
    "account {0}: balance {1} and held {2}, but its postings add up to {3} and {4}": """
        SELECT account.id, account.balance, account.held, COALESCE(ledger.balance, 0), COALESCE(ledger.held, 0)
        FROM billing_account AS account
        LEFT JOIN (
            SELECT account_id,
                   SUM(CASE WHEN kind IN ('top_up', 'adjustment') THEN amount
                            WHEN kind = 'capture' THEN -amount ELSE 0 END) AS balance,
                   SUM(CASE WHEN kind = 'hold' THEN amount
                            WHEN kind IN ('capture', 'release') THEN -amount ELSE 0 END) AS held
            FROM billing_posting GROUP BY account_id
        ) AS ledger ON ledger.account_id = account.id
        WHERE account.balance <> COALESCE(ledger.balance, 0) OR account.held <> COALESCE(ledger.held, 0)
    """,
    # P1: each posting says what the account stood at after it.
    "posting {0}: says balance {1} and held {2} after it; the postings up to it add up to {3} and {4}": """
        SELECT id, balance_after, held_after, balance, held FROM (
            SELECT id, balance_after, held_after,
                   SUM(CASE WHEN kind IN ('top_up', 'adjustment') THEN amount
                            WHEN kind = 'capture' THEN -amount ELSE 0 END) OVER account AS balance,
                   SUM(CASE WHEN kind = 'hold' THEN amount
                            WHEN kind IN ('capture', 'release') THEN -amount ELSE 0 END) OVER account AS held
            FROM billing_posting WINDOW account AS (PARTITION BY account_id ORDER BY id)
        ) AS running
        WHERE balance_after <> balance OR held_after <> held
    """,
    # P3: what ends a hold is of the same account, amount and cause.
    "posting {0}: settles hold {1} of another account, amount or reference": """
        SELECT ending.id, hold.id
        FROM billing_posting AS ending JOIN billing_posting AS hold ON hold.id = ending.settles_id
        WHERE hold.kind <> 'hold' OR hold.account_id <> ending.account_id
           OR hold.amount <> ending.amount OR hold.reference <> ending.reference
    """,
}


def broken() -> Iterator[str]:
    """One sentence for each row that does not agree with the others; none when the books are right."""
    return findings(CHECKS)


def findings(checks: dict[str, str]) -> Iterator[str]:
    """Run SQL checks and put the rows they find into their sentences."""
    for sentence, sql in checks.items():
        with connection.cursor() as cursor:
            cursor.execute(sql)
            for row in cursor:
                yield sentence.format(*row)


def drift() -> list[tuple[str, Decimal]]:
    """By how much the accounts differ from the ledger, by currency: nothing, unless somebody wrote where he must not.

    Quick enough to be asked all day, since of each account only the last posting is read: that those before it add up
    is for the checks to prove.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT account.currency, SUM(ABS(account.balance - COALESCE(latest.balance_after, 0))
                                         + ABS(account.held - COALESCE(latest.held_after, 0)))
            FROM billing_account AS account LEFT JOIN LATERAL (
                SELECT balance_after, held_after FROM billing_posting
                WHERE account_id = account.id ORDER BY id DESC LIMIT 1
            ) AS latest ON TRUE GROUP BY 1 ORDER BY 1
            """
        )
        drifts: list[tuple[str, Decimal]] = cursor.fetchall()
        return drifts
