"""The simulator does what its table says, in the README too."""

from pathlib import Path

import pytest

from outbox.providers import simulator
from outbox.providers.base import (
    Accepted,
    DeliveryReceipt,
    Inquiry,
    Message,
    NeverReceived,
    OutcomeUnknown,
    ProviderError,
    Rejected,
    Unavailable,
)

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setattr(simulator, "SLOW_S", 0)
    return simulator.Provider("simulator")


def send(provider, digits, attempt=1):
    try:
        return provider.send(Message("ref", f"+2547110000{digits}", "x", "", "GSM-7", 1, attempt))
    except ProviderError as error:
        return error


@pytest.mark.parametrize(
    ("digits", "result", "receipt"),
    [
        ("01", Rejected, None),
        ("02", Unavailable, None),
        ("03", OutcomeUnknown, "delivered"),
        ("04", OutcomeUnknown, None),
        ("05", Accepted, "delivered"),
        ("06", Accepted, "undelivered"),
        ("07", Accepted, None),
        ("08", OutcomeUnknown, None),
        ("09", OutcomeUnknown, None),
        ("99", Accepted, "delivered"),
    ],
)
def test_the_last_digits_choose_what_happens(provider, monkeypatch, digits, result, receipt):
    assert isinstance(send(provider, digits), result)

    assert list(provider.collect_receipts()) == []
    now = simulator.time.monotonic()
    monkeypatch.setattr(simulator.time, "monotonic", lambda: now + 60)
    assert [found.status for found in provider.collect_receipts()] == ([receipt] if receipt else [])
    assert list(provider.collect_receipts()) == []


@pytest.mark.parametrize(("digits", "found"), [("08", "delivered"), ("09", NeverReceived()), ("04", None)])
def test_some_of_what_was_lost_can_be_asked_about(provider, digits, found):
    said = provider.look_up(Inquiry("ref", f"+2547110000{digits}", None, 1))

    assert (said.status if isinstance(said, DeliveryReceipt) else said) == found


def test_what_was_busy_is_accepted_when_tried_again(provider):
    assert isinstance(send(provider, "02", attempt=2), Accepted)


def test_the_readme_has_the_same_table():
    for digits, what in simulator.BEHAVIOURS:
        assert f"| {digits} | {what} |" in README.read_text()
