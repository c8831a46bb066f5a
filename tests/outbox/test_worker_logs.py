"""What a dispatcher's log never holds: numbers, texts, keys, whatever an error says."""

import json
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.models import Attempt, Outbox
from outbox.providers.base import Accepted, OutcomeUnknown, Rejected
from tests.outbox.attempts import hand_over
from tests.outbox.gateway import Gateway, answer, make

NUMBER, TEXT, PASSWORD = "+254711987654", "canary-text 4321", "canary-password"


@pytest.fixture
def log(lines):
    """All lines so far, as one text."""
    return lambda: json.dumps(lines())


def send(account):
    return sending.send(account.user, recipient=NUMBER, text=TEXT, message_name="canary-name")


def work():
    Dispatcher(concurrency=2).run(once=True)


def refuse_with_all(message):
    cause = ValueError(message.text)
    raise RuntimeError(f"cannot send {message.text} to {message.recipient} with {PASSWORD}") from cause


def all_is_quiet(log):
    digits = NUMBER.removeprefix("+")
    return not [canary for canary in (digits, "canary", "4321") if canary in log]


def test_a_providers_error_is_told_by_its_place(account, provider, monkeypatch, log):
    monkeypatch.setattr(provider, "send", refuse_with_all)
    entry = send(account)

    work()

    assert "RuntimeError" in log()
    assert "ValueError" in log()
    assert "refuse_with_all" in log()
    assert str(entry.pk) in log()
    assert all_is_quiet(log())


def test_the_databases_error_shows_no_row(account, provider, log):
    entry = send(account)
    attempt = hand_over(entry)
    # Repaired by hand, and now a contradiction: PostgreSQL's error shows the whole row.
    Outbox.objects.filter(pk=entry.pk).update(due_at=Now() + timedelta(hours=1))
    Attempt.objects.filter(pk=attempt.pk).update(lease_expires_at=Now() - timedelta(seconds=1))

    work()

    assert "CheckViolation" in log()
    assert all_is_quiet(log())


@pytest.mark.parametrize("result", [Accepted(TEXT), Rejected(f"{TEXT} {NUMBER}"), OutcomeUnknown(f"{TEXT} {NUMBER}")])
def test_a_dispatchers_lines_tell_of_calls_without_what_was_said(account, provider, log, result):
    provider.error = result if isinstance(result, Exception) else None
    send(account)
    Outbox.objects.filter(pk=send(account).pk).update(expires_at=Now())

    work()

    assert "expire: 1" in log()
    assert all_is_quiet(log())


@pytest.mark.parametrize("says", [answer(500, f"{TEXT} {NUMBER}"), b"garbage", answer(401), answer(302, Location="/")])
def test_a_gateways_answer_is_in_no_line(account, provider, monkeypatch, log, says):
    with Gateway(says) as gateway:
        http = make(
            gateway,
            method="GET",
            json=None,
            timeout_s=0.5,
            query={"to": "{msisdn}", "text": "{text}", "password": PASSWORD},
            auth=["user", PASSWORD],
        )
        monkeypatch.setattr(provider, "send", http.send)
        send(account)

        work()

    assert len(gateway.requests) == 1
    assert all_is_quiet(log())
