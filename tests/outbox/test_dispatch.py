"""Claim, call, settle: every outcome moves the message and its money as promised."""

from decimal import Decimal

import pytest

from outbox import sending
from outbox.dispatch import Dispatcher


def drain() -> None:
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def entry(account):
    return sending.send(account.user, recipient="+254711000001", text="Your code is 4321")


def test_an_accepted_message_is_sent_and_charged(entry, account, provider):
    drain()

    entry.refresh_from_db()
    account.refresh_from_db()
    assert (entry.status, entry.charge_status) == ("sent", "charged")
    assert entry.sent_at is not None
    assert (account.balance, account.held) == (Decimal(9), Decimal(0))
    assert [m.text for m in provider.messages] == ["Your code is 4321"]
