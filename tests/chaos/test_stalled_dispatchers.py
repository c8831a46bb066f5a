"""A dispatcher that is stopped past its leases and wakes (SIGSTOP, SIGCONT) does no harm, and goes on working."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.db.models import F
from django.db.models.functions import Now

from billing.models import Posting
from outbox import audit, sending
from outbox.models import Attempt, AttemptCount, Outbox, ProviderState
from tests.dispatchers import gateway, process, wait_until

# Messages to numbers that end in 9 are claimed at once, and begun when a file is there.
HESITATES = """
import pathlib, time
import django
django.setup()
from outbox import dispatch
dispatch.LEASE_MARGIN_S = 1
begin = dispatch.call
def call(claimed):
    while claimed.message.recipient.endswith("9") and not pathlib.Path({go_on!r}).exists():
        time.sleep(0.01)
    return begin(claimed)
dispatch.call = call
"""


def rows():
    """All that was written, but the provider's ids."""
    attempts = Attempt.objects.order_by("pk").values("pk", "outcome", "finished_at", "error_code", "error_details")
    return list(Outbox.objects.order_by("pk").values()), list(attempts), list(Posting.objects.order_by("pk").values())


def it_is_too_late_to_begin():
    return not Outbox.objects.filter(last_attempt_at__gt=Now() - timedelta(seconds=2)).exists()


@pytest.mark.django_db(transaction=True)
def test_a_dispatcher_that_wakes_after_its_leases_writes_nothing_but_ids_and_sends_nothing(account, tmp_path: Path):
    begun = [sending.send(account.user, recipient=f"+25471100{n:03}1", text="x") for n in range(2)]
    not_begun = [sending.send(account.user, recipient=f"+25471100{n:03}9", text="x") for n in range(6)]
    go_on = tmp_path / "go-on"
    with gateway() as server:
        providers = server.providers(timeout_s=60)
        first = HESITATES.format(go_on=str(go_on))
        with process(tmp_path / "stalled.log", providers, first=first) as stalled:
            wait_until(lambda: len(server.journal) == 2 and Attempt.objects.count() == 8)
            stalled.signal(signal.SIGSTOP)
            Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
            with process(tmp_path / "other.log", providers) as other:
                wait_until(lambda: Outbox.objects.filter(outcome="unknown").count() == 8)
                server.answers.set()
                go_on.touch()
                wait_until(it_is_too_late_to_begin)
                before = rows()
                stalled.signal(signal.SIGCONT)
                wait_until(lambda: Attempt.objects.filter(provider_message_id__isnull=False).count() == 2)
                other.signal(signal.SIGTERM)
                assert other.ends() == 0
            more = [sending.send(account.user, recipient=f"+25471199{n:03}1", text="x") for n in range(2)]
            wait_until(lambda: Outbox.objects.filter(pk__in=[entry.pk for entry in more], status="sent").count() == 2)
            wait_until(lambda: AttemptCount.objects.filter(outcome="accepted").exists())
            stalled.signal(signal.SIGTERM)
            assert stalled.ends() == 0

    assert sorted(server.journal) == sorted(str(entry.pk) for entry in begun + more)
    outbox, attempts, postings = rows()
    assert (outbox[:8], attempts[:8], postings[: len(before[2])]) == before
    named = Attempt.objects.filter(provider_message_id__isnull=False).exclude(outbox__in=more)
    assert {attempt.provider_message_id for attempt in named} == {f"g-{entry.pk}" for entry in begun}
    assert not Attempt.objects.filter(outbox__in=not_begun).exclude(outcome="unknown").exists()
    # What only our own machine is to blame for is not counted twice, nor held against the provider.
    assert dict(AttemptCount.objects.values_list("outcome", "attempts")) == {"unknown": 8, "accepted": 2}
    assert set(ProviderState.objects.values_list("circuit", flat=True)) == {"closed"}
    assert list(audit.broken()) == []


@pytest.mark.django_db(transaction=True)
def test_a_dispatcher_that_wakes_alone_hands_over_again_what_it_had_not_begun(account, tmp_path: Path):
    entry = sending.send(account.user, recipient="+254711000009", text="x")
    go_on = tmp_path / "go-on"
    with gateway() as server:
        server.answers.set()
        first = HESITATES.format(go_on=str(go_on))
        with process(tmp_path / "stalled.log", server.providers(timeout_s=60), first=first) as stalled:
            wait_until(Attempt.objects.exists)
            stalled.signal(signal.SIGSTOP)
            wait_until(it_is_too_late_to_begin)
            go_on.touch()
            stalled.signal(signal.SIGCONT)
            wait_until(lambda: Attempt.objects.filter(number=1, error_code="worker_stalled").exists())
            Outbox.objects.filter(due_at__isnull=False).update(due_at=F("last_attempt_at"))
            wait_until(lambda: Outbox.objects.filter(status="sent").exists())

    assert server.journal == [str(entry.pk)]
    assert list(Attempt.objects.values_list("outcome", flat=True)) == ["unavailable", "accepted"]
    assert list(audit.broken()) == []
