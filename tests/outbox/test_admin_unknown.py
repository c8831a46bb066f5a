"""The staff's list of unknown outcomes, and how they settle them."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models import F
from django.test import Client
from django.urls import reverse

from billing import ledger
from billing.models import Posting
from outbox import audit, outcomes, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import DeliveryReceipt
from smsportal.models import Notice
from tests.outbox.attempts import lose_answer, unknown_message
from tests.threads import at_once

QUEUE = reverse("admin:outbox_unknownoutcome_changelist")
SETTLE = reverse("admin:outbox_unknownoutcome_settle")
MAY_SETTLE = ("outbox.view_outbox", "outbox.settle_unknown")


@pytest.fixture
def entry(account, provider):
    return unknown_message(account)


def verdict(entry, says, reason="the provider's support, ticket 17", attempt=1):
    return {"cases": f"{entry.pk}/{attempt}", "verdict": says, "reason": reason}


def state(entry):
    entry.refresh_from_db()
    return entry.status, entry.outcome, entry.charge_status


UNKNOWN = ("pending", "unknown", "held")


def test_a_row_of_the_queue_has_its_page_in_the_outbox(admin_site, entry):
    for page in ("change", "history"):
        answer = admin_site.get(reverse(f"admin:outbox_unknownoutcome_{page}", args=[entry.pk]))
        assert answer["Location"] == reverse(f"admin:outbox_outbox_{page}", args=[entry.pk])


def test_the_queue_shows_what_is_unknown_the_oldest_first_with_its_end(admin_site, account, entry):
    newer = unknown_message(account, message_id="newer")
    sending.send(account.user, recipient="+254711000001", text="not unknown")

    answer = admin_site.get(QUEUE)

    assert [row.pk for row in answer.context["cl"].result_list] == [entry.pk, newer.pk]
    page = answer.content.decode()
    assert reverse("admin:outbox_outbox_change", args=[entry.pk]) in page
    assert "No answer." in page


def test_a_private_text_that_the_provider_repeats_is_not_in_the_queue(admin_site, account, provider):
    entry = sending.send(account.user, recipient="+254711000001", text="4321 is your code", tags=["OTP"])
    lose_answer(entry, details="lost: 4321 is your code")

    for page in (QUEUE, f"{SETTLE}?id={entry.pk}"):
        assert "4321" not in admin_site.get(page).content.decode()


def test_the_queue_takes_few_statements(admin_site, account, entry, django_assert_max_num_queries):
    for number in range(5):
        unknown_message(account, message_id=f"m{number}")
    with django_assert_max_num_queries(6):
        admin_site.get(QUEUE)


@pytest.mark.parametrize(
    ("says", "end", "left"), [("sent", ("sent", None, "charged"), 9), ("not_sent", ("failed", None, "released"), 10)]
)
def test_the_staff_say_whether_it_was_sent_and_the_money_follows(staff_with, account, entry, says, end, left):
    site = staff_with(*MAY_SETTLE)
    chosen = site.post(QUEUE, {"action": "settle", "_selected_action": entry.pk})
    page = site.get(chosen["Location"])
    assert f'value="{entry.pk}/1"' in page.content.decode()
    assert state(entry) == UNKNOWN  # asking did nothing

    answer = site.post(chosen["Location"], verdict(entry, says), follow=True)

    assert state(entry) == end
    assert str(entry.pk) in answer.content.decode()
    account.refresh_from_db()
    assert (account.balance, account.held) == (Decimal(left), Decimal(0))
    (history,) = LogEntry.objects.all()
    assert "the provider's support, ticket 17" in history.change_message
    assert list(audit.broken()) == []


def test_several_are_settled_at_once_and_what_was_settled_meanwhile_is_left_alone(admin_site, account, entry):
    other = unknown_message(account, message_id="other")
    receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk)))

    form = verdict(entry, "not_sent") | {"cases": [f"{entry.pk}/1", f"{other.pk}/1"]}
    page = admin_site.post(SETTLE, form, follow=True).content.decode()

    assert state(entry) == ("sent", None, "charged")
    assert state(other) == ("failed", None, "released")
    assert f"{entry.pk}: nothing was changed." in page
    assert LogEntry.objects.count() == 1


def test_a_form_that_is_sent_twice_settles_once(admin_site, entry):
    for says in ("not_sent", "not_sent", "sent"):
        admin_site.post(SETTLE, verdict(entry, says))

    assert state(entry) == ("failed", None, "released")
    assert Posting.objects.filter(kind__in=["capture", "release"]).count() == 1
    assert LogEntry.objects.count() == 1


def test_a_verdict_about_an_earlier_attempt_is_not_one_about_the_present(admin_site, entry):
    admin_site.post(SETTLE, verdict(entry, "not_sent"))
    again = sending.resend(Outbox.objects.get())
    lose_answer(again)

    page = admin_site.post(SETTLE, verdict(entry, "sent", attempt=1), follow=True).content.decode()

    assert state(again) == UNKNOWN
    assert "unknown again, of another attempt" in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": ""},
        {"verdict": ""},
        {"verdict": "maybe"},
        {"cases": "nonsense"},
        {"cases": "nonsense/1"},
        {"cases": []},
    ],
)
def test_without_a_verdict_and_a_reason_nothing_happens(admin_site, entry, wrong):
    answer = admin_site.post(f"{SETTLE}?id={entry.pk}", verdict(entry, "sent") | wrong)

    assert answer.status_code == 200
    assert "Nothing was done." in answer.content.decode()
    assert state(entry) == UNKNOWN


@pytest.mark.parametrize("permissions", [(), MAY_SETTLE[:1], MAY_SETTLE[1:]])
def test_only_those_who_may_settle_unknown_outcomes_do(staff_with, entry, permissions):
    site = staff_with(*permissions)

    assert site.get(f"{SETTLE}?id={entry.pk}").status_code == 403
    assert site.post(SETTLE, verdict(entry, "sent")).status_code == 403
    assert state(entry) == UNKNOWN


def test_a_message_of_the_outbox_leads_to_its_settlement(admin_site, staff_with, entry):
    page = reverse("admin:outbox_outbox_change", args=[entry.pk])

    assert f"{SETTLE}?id={entry.pk}" in admin_site.get(page).content.decode()
    assert SETTLE not in staff_with("outbox.view_outbox").get(page).content.decode()


def test_the_staff_are_told_once_of_what_stays_unknown_for_an_hour_and_until_it_is_settled(entry):
    Outbox.objects.update(last_attempt_at=F("last_attempt_at") - timedelta(minutes=59))
    Dispatcher(concurrency=1).run(once=True)
    assert not Notice.objects.exists()

    Outbox.objects.update(last_attempt_at=F("last_attempt_at") - timedelta(minutes=1))
    for _ in range(2):
        Dispatcher(concurrency=1).run(once=True)
    notice = Notice.objects.get()
    assert (notice.user, notice.level, notice.ended_at) == (None, "warning", None)

    receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk)))
    Dispatcher(concurrency=1).run(once=True)
    assert Notice.objects.get().ended_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_receipt_the_staff_and_the_clock_settle_a_message_once_between_them(account, provider, superuser):
    """P3: fifty rounds, each with all three at once."""
    ledger.top_up(account, Decimal(60), reason="for fifty messages")
    site = Client()
    site.force_login(superuser)
    for number in range(50):
        entry = unknown_message(account, message_id=f"m{number}")
        Outbox.objects.filter(pk=entry.pk).update(last_attempt_at=F("last_attempt_at") - timedelta(days=4))

        def act(which, entry=entry):
            match which:
                case 0:
                    return receipts.apply("locmem", DeliveryReceipt("in_transit", str(entry.pk)))
                case 1:
                    return site.post(SETTLE, verdict(entry, "not_sent")).status_code
                case _:
                    return outcomes.end_unknown()

        assert not [result for result in at_once(3, act) if isinstance(result, Exception)]

    assert Posting.objects.filter(kind__in=["capture", "release"]).count() == 50
    assert not Outbox.objects.filter(outcome="unknown").exists()
    assert list(audit.broken()) == []
