"""Proof of the books: what the accounts say is what the ledger adds up to."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection


class Check(NamedTuple):
    """What SQL can find broken, and the sentence that names each row it finds.

    No change is half done in what one statement sees, so all of that has to fit together.
    """

    name: str
    sentence: str
    sql: str


CHECKS = [
    # P1: balance and held repeat what the postings add up to.
    Check(
        "balances",
        "account {0}: balance {1} and held {2}, but its postings add up to {3} and {4}",
        """
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
    ),
    # P1: each posting says what the account stood at after it.
    Check(
        "running balances",
        "posting {0}: says balance {1} and held {2} after it; the one before it and its amount make {3} and {4}",
        """
            SELECT id, balance_after, held_after, balance, held FROM (
                SELECT id, balance_after, held_after,
                       COALESCE(LAG(balance_after) OVER account, 0)
                           + CASE WHEN kind IN ('top_up', 'adjustment') THEN amount
                                  WHEN kind = 'capture' THEN -amount ELSE 0 END AS balance,
                       COALESCE(LAG(held_after) OVER account, 0)
                           + CASE WHEN kind = 'hold' THEN amount
                                  WHEN kind IN ('capture', 'release') THEN -amount ELSE 0 END AS held
                FROM billing_posting WINDOW account AS (PARTITION BY account_id ORDER BY id)
            ) AS running
            WHERE balance_after <> balance OR held_after <> held
        """,
    ),
    # P2
    Check(
        "credit limits",
        "account {0}: balance {1} less held {2} is below its credit limit of {3}",
        """
            SELECT id, balance, held, credit_limit FROM billing_account
            WHERE balance - held < -credit_limit OR held < 0
        """,
    ),
    # P3: what ends a hold is of the same account, amount and cause.
    Check(
        "settlements",
        "posting {0}: settles hold {1} of another account, amount or reference",
        """
            SELECT ending.id, hold.id
            FROM billing_posting AS ending JOIN billing_posting AS hold ON hold.id = ending.settles_id
            WHERE hold.kind <> 'hold' OR hold.account_id <> ending.account_id
               OR hold.amount <> ending.amount OR hold.reference <> ending.reference
        """,
    ),
    # P3: once.
    Check(
        "second settlements",
        "posting {0}: a hold that was settled {1} times",
        """
            SELECT settles_id, COUNT(*) FROM billing_posting WHERE settles_id IS NOT NULL
            GROUP BY settles_id HAVING COUNT(*) > 1
        """,
    ),
    # P4
    Check(
        "the ledger's trigger",
        "trigger {0}: is missing or switched off; the ledger can be changed",
        """
            SELECT name FROM (VALUES ('posting_append_only')) AS trigger (name)
            WHERE NOT EXISTS (
                SELECT FROM pg_trigger
                WHERE tgrelid = 'billing_posting'::regclass AND tgname = name AND tgenabled IN ('O', 'A')
            )
        """,
    ),
]


def findings(checks: Iterable[Check], **values: Any) -> Iterator[str]:
    """Run checks one after the other, and put each row they find into its sentence. values: for the SQL."""
    for check in checks:
        with connection.cursor() as cursor:
            cursor.execute(check.sql, values)
            for row in cursor:
                yield check.sentence.format(*row)


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
