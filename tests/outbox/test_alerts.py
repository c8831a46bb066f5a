"""Users are told of failed messages and of a low balance: once, with the fact, and no more when it is over."""

from decimal import Decimal

import pytest
from django.db import transaction

from billing import ledger, low_balance
from billing.models import Account
from outbox import outcomes, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.exceptions import NotPaid
from outbox.models import Outbox
from outbox.providers.base import Accepted, DeliveryReceipt, Rejected
from smsportal import notices
from smsportal.models import Notice, User, WebhookDelivery, WebhookEndpoint
from tests.factories import UserFactory
from tests.outbox.attempts import hand_over
from tests.threads import at_once

ALERTS, SETTINGS = "/api/alerts", "/api/alerts/settings"


def failing(account, provider, count=1):
    provider.error = Rejected("unknown subscriber")
    entries = [sending.send(account.user, recipient="+254711000001", text="Hello") for _ in range(count)]
    Dispatcher(concurrency=1).run(once=True)
    provider.error = None
    return entries


def notices_of(account, kind):
    return Notice.objects.filter(user=account.user, kind=kind)


# --- failed messages --------------------------------------------------------------------------------------------------


def test_failed_messages_are_one_alert_until_it_is_read(account, provider, api):
    failing(account, provider, 2)
    failing(account, provider)

    (alert,) = [one for one in api.get(ALERTS).json()["results"] if one["kind"] == "sms.failed"]
    assert (alert["count"], alert["readAt"]) == (3, None)
    read = api.post(f"{ALERTS}/{alert['alertId']}/read").json()
    assert read["readAt"] is not None

    failing(account, provider)

    counts = [one["count"] for one in api.get(ALERTS).json()["results"] if one["kind"] == "sms.failed"]
    assert counts == [1, 3]  # unread first


def test_a_message_that_is_delivered_after_all_or_sent_again_is_withdrawn(account, provider):
    first, second, third = failing(account, provider, 3)

    receipts.apply("locmem", DeliveryReceipt("delivered", str(first.pk)))
    sending.resend(Outbox.objects.get(pk=second.pk))

    notice = notices_of(account, "sms.failed").get()
    assert list(notice.subjects.values_list("subject", flat=True)) == [third.pk]
    receipts.apply("locmem", DeliveryReceipt("delivered", str(third.pk)))
    notice.refresh_from_db()
    assert notice.ended_at is not None


@pytest.mark.parametrize("way", ["undelivered", "expired", "given up", "found not sent"])
def test_each_way_to_fail_is_told(account, provider, way):
    entry = sending.send(account.user, recipient="+254711000001", text="Hello")
    match way:
        case "undelivered":
            outcomes.settle([(hand_over(entry).pk, Accepted("p1"))])
            receipts.apply("locmem", DeliveryReceipt("undelivered", str(entry.pk)))
        case "expired":
            Outbox.objects.update(expires_at=outcomes.Now())
            outcomes.expire()
        case "given up":
            outcomes.settle([(hand_over(entry).pk, outcomes.OutcomeUnknown("no answer"))])
            Outbox.objects.update(last_attempt_at=entry.created_at - outcomes.timedelta(days=9))
            outcomes.end_unknown()
        case "found not sent":
            outcomes.settle([(hand_over(entry).pk, outcomes.OutcomeUnknown("no answer"))])
            outcomes.settle_unknown(entry.pk, 1, sent=False, details="It was not.")

    assert notices_of(account, "sms.failed").get().subjects.get().subject == entry.pk


def test_who_wants_no_alerts_of_failures_gets_none(account, provider, api):
    api.patch(SETTINGS, {"failureAlerts": False})

    failing(account, provider)

    assert not notices_of(account, "sms.failed").exists()


def test_an_alert_holds_neither_text_nor_number(account, provider):
    sending.send(account.user, recipient="+254711000001", text="Your code is 4321", tags=["OTP"])
    failing(account, provider)

    for notice in Notice.objects.all():
        assert "4321" not in notice.text
        assert "711000001" not in notice.text


@pytest.mark.django_db(transaction=True)
def test_an_alert_is_committed_with_its_fact_or_not_at_all(account, provider):
    entry = sending.send(account.user, recipient="+254711000001", text="Hello")
    attempt = hand_over(entry)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outcomes.settle([(attempt.pk, Rejected("no"))])
        raise ZeroDivisionError

    assert not notices_of(account, "sms.failed").exists()


@pytest.mark.django_db(transaction=True)
def test_an_alert_that_is_read_while_messages_fail_loses_none_of_them(account, provider):
    ledger.top_up(account, Decimal(100), reason="for many")
    for number in range(20):
        entries = [sending.send(account.user, recipient="+254711000001", text="x") for _ in range(3)]
        attempts = [hand_over(entry) for entry in entries]
        outcomes.settle([(attempts[0].pk, Rejected("no"))])

        def act(which, attempts=attempts):
            if which == 0:
                return notices.read(notices_of(account, "sms.failed").order_by("-pk")[0])
            return outcomes.settle([(attempts[which].pk, Rejected("no"))])

        assert not [result for result in at_once(3, act) if isinstance(result, Exception)], number

    told = [subject for notice in Notice.objects.all() for subject in notice.subjects.values_list("subject", flat=True)]
    assert sorted(told) == sorted(Outbox.objects.values_list("pk", flat=True))
    open_ones = notices_of(account, "sms.failed").filter(ended_at=None)
    assert open_ones.count() <= 1
    # What nobody can have seen is in the open one, or was in one that was open when it was read.
    assert all(notice.subjects.exists() for notice in notices_of(account, "sms.failed"))


# --- a low balance ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rich(account):
    """50.00 KES, the threshold at 10."""
    Account.objects.update(low_balance_threshold=10)
    ledger.top_up(account, Decimal(40), reason="more")
    account.refresh_from_db()
    Notice.objects.all().delete()
    return account


def spend(account, count):
    for _ in range(count):
        sending.send(account.user, recipient="+254711000001", text="x")


def test_crossing_the_threshold_is_told_once_and_again_after_a_top_up(rich):
    spend(rich, 39)
    assert not notices_of(rich, "balance.low").exists()
    spend(rich, 3)
    notice = notices_of(rich, "balance.low").get()
    assert "10 KES is left" in notice.text

    ledger.top_up(rich, Decimal(4), reason="a little")  # 12: above the line again
    assert notices_of(rich, "balance.low").filter(ended_at=None).count() == 0
    spend(rich, 2)
    assert notices_of(rich, "balance.low").filter(ended_at=None).count() == 1


def test_money_that_comes_back_does_not_make_it_a_new_crossing(rich, provider):
    spend(rich, 40)
    Outbox.objects.update(expires_at=outcomes.Now())
    outcomes.expire()
    spend(rich, 40)

    assert notices_of(rich, "balance.low").count() == 1


def test_a_threshold_of_zero_is_told_when_nothing_is_left(rich, api):
    api.patch(SETTINGS, {"lowBalanceThreshold": 0})
    spend(rich, 49)
    assert not notices_of(rich, "balance.low").exists()

    spend(rich, 1)

    assert "0 KES is left" in notices_of(rich, "balance.low").get().text
    with pytest.raises(NotPaid):
        spend(rich, 1)


def test_a_new_threshold_is_looked_at_at_once(rich, api):
    api.patch(SETTINGS, {"lowBalanceThreshold": 60})
    assert notices_of(rich, "balance.low").filter(ended_at=None).count() == 1

    api.patch(SETTINGS, {"lowBalanceThreshold": 5})
    assert notices_of(rich, "balance.low").filter(ended_at=None).count() == 0


def test_it_says_how_long_the_money_lasts(rich, provider):
    spend(rich, 40)
    Dispatcher(concurrency=1).run(once=True)
    Notice.objects.all().delete()
    spend(rich, 1)  # 40 in a week, 9 left

    assert "enough for about 1 day at this pace" in notices_of(rich, "balance.low").get().text


def test_who_was_told_costs_no_further_look_at_the_ledger(rich, monkeypatch):
    spend(rich, 40)
    monkeypatch.setattr(low_balance, "days_left", lambda *_: pytest.fail("asked again"))

    spend(rich, 1)

    assert notices_of(rich, "balance.low").count() == 1


@pytest.mark.django_db(transaction=True)
def test_forty_sends_that_cross_the_line_at_once_are_one_alert(rich):
    WebhookEndpoint.objects.create(user=rich.user, url="https://hooks.example/", events=["balance.low"])
    spend(rich, 5)

    results = at_once(40, lambda _: sending.send(rich.user, recipient="+254711000001", text="x"))

    assert not [result for result in results if isinstance(result, Exception)]
    assert notices_of(rich, "balance.low").count() == 1
    assert WebhookDelivery.objects.count() == 1


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_settings_are_read_and_changed_one_by_one(api, account):
    assert api.get(SETTINGS).json() == {
        "lowBalanceThreshold": 1.0,
        "maxRetries": 3,
        "failureAlerts": True,
        "emailAlerts": False,
        "alertEmail": "",
    }

    changed = {"lowBalanceThreshold": 2.5, "maxRetries": 1, "emailAlerts": True, "alertEmail": "ops@example.com"}
    assert api.patch(SETTINGS, changed).json() == changed | {"failureAlerts": True}
    assert api.get(SETTINGS).json()["maxRetries"] == 1
    assert api.get("/api/billing/balance").json()["lowBalanceThreshold"] == 2.5
    assert sending.send(account.user, recipient="+254711000001", text="x").max_retries == 3  # a stale user object
    user = User.objects.get(pk=account.user_id)
    assert sending.send(user, recipient="+254711000001", text="x").max_retries == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"lowBalanceThreshold": -1},
        {"lowBalanceThreshold": 10**12},
        {"lowBalanceThreshold": "10"},
        {"lowBalanceThreshold": 1.23456},
        {"lowBalanceThreshold": None},
        {"maxRetries": -1},
        {"maxRetries": 4},
        {"maxRetries": 1.5},
        {"maxRetries": True},
        {"failureAlerts": "yes"},
        {"emailAlerts": 1},
        {"emailAlerts": None},
        {"alertEmail": "nobody"},
        {"alertEmail": "a@example.com\r\nBcc: b@example.com"},
        {"alertEmail": 7},
        {"threshold": 1},
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(api, wrong):
    before = api.get(SETTINGS).json()

    answer = api.patch(SETTINGS, wrong)

    assert answer.status_code == 400, answer.json()
    assert [error["field"] for error in answer.json()["errors"]] == list(wrong)
    assert api.get(SETTINGS).json() == before


@pytest.mark.parametrize("body", ["[]", '"x"', "7", "null"])
def test_settings_are_an_object(api, body):
    assert api.patch(SETTINGS, body, content_type="application/json").status_code == 400


def test_the_cap_of_the_operator_holds_when_it_is_lowered(api, settings):
    api.patch(SETTINGS, {"maxRetries": 3})
    settings.SMS_MAX_RETRIES = 1

    assert api.get(SETTINGS).json()["maxRetries"] == 1


# --- who sees what ----------------------------------------------------------------------------------------------------


def test_a_strangers_alert_is_as_unknown_as_one_that_does_not_exist(account, provider, client_of):
    failing(account, provider)
    theirs = notices_of(account, "sms.failed").get()
    staffs = notices.tell_staff("test", "it", "Look at it.")
    stranger = client_of(UserFactory())

    answers = [stranger.post(f"{ALERTS}/{which}/read") for which in (theirs.pk, staffs.pk, 999_999, "x", "1" * 30)]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1
    assert stranger.get(ALERTS).json() == {"results": []}
    assert notices_of(account, "sms.failed").get().read_at is None


def test_only_unread_alerts_when_asked_for_them(account, provider, api):
    failing(account, provider)
    for alert in api.get(ALERTS).json()["results"]:
        api.post(f"{ALERTS}/{alert['alertId']}/read")

    assert api.get(ALERTS, {"unread": "true"}).json()["results"] == []
    assert api.get(ALERTS, {"unread": "perhaps"}).status_code == 400
    assert api.get(ALERTS, {"page": "2"}).status_code == 400
