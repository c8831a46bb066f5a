"""A provider that does not take a message: it waits as it was told to, costs no retry, and is taken once in the end."""

import pytest
from django.db.models.functions import Now

from outbox import audit, sending
from outbox.models import Outbox, ProviderState
from smsportal.models import Notice
from tests.hostile.messages import PENDING, SENT, endings, send, state, work
from tests.hostile.provider import retry_after_forms

# Seconds until it may be tried again; at the most a quarter more, so that not all come back at once.
WAITS = {
    "seconds": 2,
    "date": 120,
    "past": 1,
    "absent": 2,  # as long as we choose after a first attempt
    "negative": 1,
    "huge": 15 * 60,
    "text": 2,
}


def time_passes():
    Outbox.objects.filter(due_at__isnull=False).update(due_at=Now())
    ProviderState.objects.filter(retry_at__isnull=False).update(retry_at=Now())


@pytest.mark.parametrize(
    ("mode", "wait_s"),
    [*((f"throttle-{form}", WAITS[form]) for form in retry_after_forms()), ("busy", 2), ("busy-absent", 2)],
)
def test_a_busy_provider_is_given_the_time_it_asks_for_within_a_second_and_a_quarter_of_an_hour(
    mode, wait_s, account, hostile
):
    entry = send(account, f"{mode},accept")

    work()

    assert (state(entry), entry.error_code, entry.attempt_count) == (PENDING, "provider_busy", 1)
    wait = (entry.due_at - entry.attempts.get().finished_at).total_seconds()
    assert wait_s - 2 <= wait <= wait_s * 1.25 + 2  # a date is in whole seconds
    assert wait >= 1
    assert hostile.taken(entry.pk) == 0

    time_passes()
    work()

    assert (state(entry), entry.retry_count) == (SENT, 0)
    assert (hostile.taken(entry.pk), endings(entry)) == (1, ["capture"])
    assert list(audit.broken()) == []


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("credentials", "provider_credentials"),
        ("forbidden", "provider_credentials"),
        ("no-credit", "provider_out_of_credit"),
        ("redirect", "provider_redirects"),
    ],
)
def test_a_provider_that_refuses_us_is_left_alone_until_it_takes_messages_again(mode, code, account, hostile):
    entry, next_in_line = send(account, f"{mode},accept"), send(account, "accept", 2)
    Outbox.objects.filter(pk=next_in_line.pk).update(due_at=None)  # not yet

    work()

    assert (state(entry), entry.attempts.get().error_code) == (PENDING, code)
    assert "temporarily unavailable" in entry.error_details
    Outbox.objects.filter(pk=next_in_line.pk).update(due_at=Now())
    work()
    assert (state(next_in_line), next_in_line.attempt_count) == (PENDING, 0)
    assert (hostile.taken(entry.pk), hostile.taken(next_in_line.pk)) == (0, 0)  # who follows a redirect is taken in
    assert Notice.objects.get().level == "critical"

    time_passes()
    work()
    time_passes()
    work()

    assert (state(entry), state(next_in_line)) == (SENT, SENT)
    assert (entry.retry_count, hostile.taken(entry.pk), hostile.taken(next_in_line.pk)) == (0, 1, 1)
    assert Notice.objects.get().ended_at is not None
    assert list(audit.broken()) == []


@pytest.mark.parametrize("mode", ["reject", "reject-inside"])
def test_a_rejected_message_gives_its_money_back_and_is_taken_when_it_is_sent_again(mode, account, hostile):
    entry = send(account, f"{mode},accept")

    work()

    assert (state(entry), entry.error_code) == (("failed", None, None, "released"), "provider_rejected")
    assert hostile.taken(entry.pk) == 0

    sending.resend(entry)
    work()

    assert (state(entry), entry.retry_count) == (SENT, 1)
    assert (hostile.taken(entry.pk), endings(entry)) == (1, ["release", "capture"])
    assert list(audit.broken()) == []
