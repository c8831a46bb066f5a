"""What can be seen of the portal from outside: its tables, its provider's journal, and what its users were told."""

import contextlib
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row, scalar_row

from tests.chaos.traffic import Payment, Request

Row = dict[str, Any]
MAY_BE_TAKEN = ("accepted", "unknown")
QUIET_S = 240  # within which all is done after the storm, or something is stuck

# One statement sees one moment, so that it may be asked in the middle of the storm.
WRONG_ACCOUNTS = """
    SELECT account.id FROM billing_account AS account
    LEFT JOIN (
        SELECT account_id,
               COALESCE(SUM(amount) FILTER (WHERE kind IN ('top_up', 'adjustment')), 0) AS paid,
               COALESCE(SUM(amount) FILTER (WHERE kind = 'capture'), 0) AS charged,
               COALESCE(SUM(amount) FILTER (WHERE kind = 'release'), 0) AS given_back,
               COALESCE(SUM(amount) FILTER (WHERE kind = 'hold'), 0) AS held
        FROM billing_posting GROUP BY account_id
    ) AS ledger ON ledger.account_id = account.id
    LEFT JOIN (
        SELECT user_id, SUM(total_cost) AS held FROM outbox_outbox WHERE charge_status = 'held' GROUP BY user_id
    ) AS waiting ON waiting.user_id = account.user_id
    WHERE account.balance <> COALESCE(ledger.paid - ledger.charged, 0)
       OR account.held <> COALESCE(ledger.held - ledger.charged - ledger.given_back, 0)
       OR account.held <> COALESCE(waiting.held, 0)
       OR account.balance - account.held < 0
"""
BUSY = """
    SELECT (SELECT COUNT(*) FROM outbox_outbox WHERE due_at IS NOT NULL)
         + (SELECT COUNT(*) FROM outbox_attempt WHERE outcome IS NULL)
"""


@dataclass(frozen=True)
class Evidence:
    """All that is known after the storm; rows by the names of their columns."""

    requests: list[Request]
    payments: list[Payment]
    journal: list[Row]
    outbox: dict[str, Row]  # by id
    attempts: dict[str, list[Row]]  # by the message's id, in their order
    receipts: list[Row]
    postings: list[Row]
    accounts: list[Row]
    prices: list[Row]

    @classmethod
    def collect(cls, url: str, requests: list[Request], payments: list[Payment], journal: list[Row]) -> "Evidence":
        with psycopg.connect(url, row_factory=dict_row) as database:

            def rows(query: str) -> list[Row]:
                return database.execute(query).fetchall()

            attempts = defaultdict(list)
            for attempt in rows("SELECT * FROM outbox_attempt ORDER BY outbox_id, number"):
                attempts[str(attempt["outbox_id"])].append(attempt)
            users = "JOIN smsportal_user AS owner ON owner.id = user_id"
            outbox = rows(f"SELECT entry.*, username FROM outbox_outbox AS entry {users}")
            return cls(
                requests,
                payments,
                journal,
                {str(row["id"]): row for row in outbox},
                attempts,
                rows("SELECT * FROM outbox_receipt ORDER BY id"),
                rows("SELECT * FROM billing_posting ORDER BY id"),
                rows(f"SELECT account.*, username FROM billing_account AS account {users}"),
                rows("SELECT * FROM billing_price"),
            )

    def taken(self) -> Counter[str]:
        return Counter(line["reference"] for line in self.journal)

    def charged(self) -> Counter[str]:
        return Counter(message_of(posting) for posting in self.postings if posting["kind"] == "capture")

    def unknown(self) -> set[str]:
        return {pk for pk, row in self.outbox.items() if row["outcome"] == "unknown"}

    def may_be_about_an_earlier_one(self) -> set[str]:
        """Messages of unknown outcome that had been handed over before, and maybe taken."""
        return {pk for pk in self.unknown() if sum(one["outcome"] in MAY_BE_TAKEN for one in self.attempts[pk]) > 1}


def message_of(posting: Row) -> str:
    """The id of the message that a hold, or what ended it, was for."""
    return str(posting["reference"]).partition("/")[0]


def wait_until_quiet(url: str) -> None:
    """Nothing waits for its turn any more, and nothing is in a provider's hands."""
    deadline = time.monotonic() + QUIET_S
    with psycopg.connect(url, autocommit=True, row_factory=scalar_row) as database:
        while left := database.execute(BUSY).fetchone():
            assert time.monotonic() < deadline, f"{left} messages are stuck"
            time.sleep(0.2)


class Watch(threading.Thread):
    """Asks every second whether the accounts are right at that very moment, whenever there is a database to ask."""

    def __init__(self, url: str) -> None:
        super().__init__(name="watch")
        self.found: list[str] = []
        self.looks = 0
        self._url, self._over = url, threading.Event()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(1):
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._url) as database:
                wrong = database.execute(WRONG_ACCOUNTS).fetchall()
                self.found += [f"account {pk} was wrong at {datetime.now(UTC)}" for (pk,) in wrong]
                self.looks += 1
