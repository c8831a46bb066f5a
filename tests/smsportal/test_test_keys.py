"""A test key works as a live one does, and nothing of it leaves the house, costs money or mixes with what is real."""

import json
import uuid
from decimal import Decimal

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from billing import ledger
from billing.models import Posting
from outbox import audit, circuits, notices, routing, sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox, ProviderState
from outbox.providers import simulator
from smsportal.models import ApiKey, Notice, User, WebhookDelivery
from tests.factories import PriceFactory, UserFactory
from tests.smsportal.receiver import receiver
from tests.threads import at_once

SEND, LIST, BALANCE = "/api/sms/send", "/api/sms/outbox", "/api/billing/balance"
RESEND = "/api/sms/outbox/resend"


def message(recipient="+254711000099", **more):
    return {"recipientPhoneNumber": recipient, "message": "Hello", **more}


def drain():
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def test_api(account, provider, client_of):
    """An API client of `account`'s user with a test key. `provider` is the one that live messages go to."""
    return client_of(account.user, is_test=True)


@pytest.fixture
def twin(test_api, account):
    return User.objects.get(live_user=account.user)


def untouched(account):
    before = account.balance, account.held
    account.refresh_from_db()
    return (account.balance, account.held) == before and not account.user.outbox.exists()


# --- everything works, nothing leaves ---------------------------------------------------------------------------------


def test_a_test_key_can_do_what_a_live_key_can_and_nothing_reaches_a_provider(
    test_api, account, twin, provider, monkeypatch
):
    sent = {digits: test_api.post(SEND, message(f"+2547110000{digits}")) for digits in ("99", "01", "06", "04")}
    cancelled = test_api.post(SEND, message("+254711000098")).json()["outboxId"]
    assert test_api.post(f"/api/sms/outbox/{cancelled}/cancel").status_code == 200
    assert test_api.post("/api/sms/quote", message()).json()["totalCost"] == 1.0
    drain()
    failed = sent["01"].json()["outboxId"]
    assert test_api.post(RESEND, {"outboxId": failed}).status_code == 200
    drain()
    now = simulator.time.monotonic()
    monkeypatch.setattr(simulator.time, "monotonic", lambda: now + 60)
    drain()

    assert {response.status_code for response in sent.values()} == {201}
    log = {entry["recipientPhoneNumber"][-2:]: entry for entry in test_api.get(LIST).json()["results"]}
    shown = {digits: (entry["status"], entry["deliveryStatus"], entry["outcome"]) for digits, entry in log.items()}
    assert shown == {
        "99": ("sent", "delivered", None),
        "01": ("failed", None, None),
        "06": ("failed", "undelivered", None),
        "04": ("pending", None, "unknown"),
        "98": ("failed", None, None),
    }
    assert log["01"]["retryCount"] == 1
    assert {entry["userId"] for entry in log.values()} == {str(account.user.pk)}
    assert test_api.get(f"{LIST}/{failed}").json()["attempts"][0]["provider"] == "test"
    assert test_api.get("/api/sms/outbox/export").status_code == 200
    balance = test_api.get(BALANCE).json()
    assert (balance["balance"], balance["held"]) == (998.0, 1.0)
    assert (
        len(test_api.get("/api/billing/statement").json()["results"]) == 1 + 2 + 2 * 2 + 2 + 1 + 2
    )  # top-up, 99, 01 twice, ...
    assert provider.messages == []
    assert untouched(account)
    assert list(audit.broken()) == []


def test_live_messages_go_to_the_live_provider_as_ever(test_api, api, account, provider):
    test_api.post(SEND, message(message="a test"))
    entry = api.post(SEND, message(message="Hello")).json()

    drain()

    assert [handed.text for handed in provider.messages] == ["Hello"]
    assert set(Outbox.objects.values_list("is_test", "provider")) == {(True, "test"), (False, "locmem")}
    assert [found["outboxId"] for found in api.get(LIST).json()["results"]] == [entry["outboxId"]]


@pytest.mark.parametrize("trouble", ["stopped", "out of the settings", "without a route", "busy"])
def test_whatever_happens_to_providers_a_test_stays_with_the_simulator(test_api, provider, settings, trouble):
    if trouble == "stopped":
        circuits.stop("test")
    elif trouble == "out of the settings":
        settings.SMS_PROVIDERS = {"other": {"BACKEND": "outbox.providers.locmem.Provider"}}
    elif trouble == "without a route":
        settings.SMS_ROUTES = {"+44": ["locmem"]}
    test_api.post(SEND, message("+254711000002" if trouble == "busy" else "+254711000099"))

    drain()
    routing.reclaim()
    routing.assign()
    routing.divert()

    entry = Outbox.objects.get()
    assert entry.provider == "test"
    assert entry.attempt_count == (0 if trouble == "stopped" else 1)
    assert provider.messages == []


def test_the_database_lets_no_test_into_a_live_queue_and_nothing_live_into_the_simulators(test_api, api, provider):
    test_api.post(SEND, message())
    api.post(SEND, message())

    for is_test, queue in ((True, "locmem"), (True, None), (False, "test")):
        with pytest.raises(IntegrityError), transaction.atomic():
            Outbox.objects.filter(is_test=is_test).update(provider=queue)


# --- the live user's own ----------------------------------------------------------------------------------------------


def test_the_live_users_prices_sender_id_and_limits_hold(test_api, account):
    PriceFactory(user=account.user, price_per_segment=Decimal("0.25"))
    account.user.max_retries = 1
    account.user.save()
    account.low_balance_threshold = 7
    account.save()

    entry = test_api.post(SEND, message()).json()

    assert (entry["costPerUnit"], entry["senderId"], entry["maxRetries"]) == (0.25, "MYBRAND", 1)
    assert [price["costPerUnit"] for price in test_api.get("/api/billing/prices").json()["prices"]] == [0.25]
    assert test_api.get(BALANCE).json()["lowBalanceThreshold"] == 7.0
    assert list(audit.broken()) == []


def test_what_a_test_key_sets_holds_for_tests_only(test_api, account):
    before = account.user.retries_allowed(), account.threshold()

    test_api.patch("/api/alerts/settings", {"maxRetries": 1, "lowBalanceThreshold": 999})
    entry = test_api.post(SEND, message()).json()

    assert entry["maxRetries"] == 1
    assert test_api.get(BALANCE).json()["lowBalanceThreshold"] == 999.0
    assert [alert["kind"] for alert in test_api.get("/api/alerts").json()["results"]] == ["balance.low"]
    assert not Notice.objects.filter(user=account.user).exists()
    user = User.objects.get(pk=account.user.pk)
    assert (user.retries_allowed(), ledger.account_of(user).threshold()) == before


def test_webhooks_of_test_keys_are_told_of_tests_and_those_of_live_keys_of_live_messages(
    test_api, api, account, settings
):
    settings.WEBHOOKS_TO_PRIVATE_ADDRESSES = True
    with receiver() as server:
        hook = {"url": server.url, "events": ["sms.sent"]}
        hooks = [client.post("/api/webhooks", hook).json()["webhookId"] for client in (test_api, api)]
        sent = [client.post(SEND, message()).json()["outboxId"] for client in (test_api, api)]
        drain()

    told = {str(told.endpoint_id): json.loads(told.body)["data"] for told in WebhookDelivery.objects.all()}
    assert {hook: facts["outboxId"] for hook, facts in told.items()} == dict(zip(hooks, sent, strict=True))
    assert {facts["userId"] for facts in told.values()} == {str(account.user.pk)}


def test_play_money_is_of_the_live_accounts_currency_ends_and_can_be_topped_up(test_api, twin, account, price):
    type(account).objects.filter(pk=account.pk).update(currency="UGX")
    PriceFactory(currency="UGX", price_per_segment=Decimal(600))

    answers = [test_api.post(SEND, message()).status_code for _ in range(2)]
    call_command("top_up", "amina (test)", "1000", "--reason", "more to play with")
    answers.append(test_api.post(SEND, message()).status_code)

    assert answers == [201, 402, 201]
    assert ledger.account_of(twin).currency == "UGX"


@pytest.mark.django_db(transaction=True)
def test_a_twin_and_its_play_money_are_made_once_however_many_ask_at_once(account):
    def work(number):
        key, _ = ApiKey.issue(User.objects.get(pk=account.user.pk), f"app {number}", is_test=True)
        return ledger.account_of(key.user).pk

    assert len(set(at_once(8, work))) == 1
    assert Posting.objects.get(account__user__live_user=account.user).amount == ledger.PLAY_MONEY


def test_a_twin_is_made_even_when_its_name_is_taken_by_that_of_somebody_who_had_ours(user):
    ApiKey.issue(user, "x", is_test=True)
    User.objects.filter(pk=user.pk).update(username="brian")

    key, _ = ApiKey.issue(UserFactory(username="amina"), "x", is_test=True)

    assert key.user.is_test_twin


# --- apart from what is real ------------------------------------------------------------------------------------------


def test_ids_of_the_callers_own_are_taken_once_in_each_world(test_api, api):
    named = message(messageId="order-1")
    key = {"HTTP_IDEMPOTENCY_KEY": "k1"}

    assert [client.post(SEND, named, **key).status_code for client in (test_api, api)] == [201, 201]
    assert [client.post(SEND, named, **key).status_code for client in (test_api, api)] == [200, 200]


def test_neither_world_sees_the_other(test_api, api, client_of, account, provider):
    tested, live = (client.post(SEND, message()).json()["outboxId"] for client in (test_api, api))
    for_others = client_of(UserFactory(), may_act_for_others=True)
    nowhere = api.get(f"{LIST}/{uuid.uuid4()}")

    for client, outbox_id in ((api, tested), (test_api, live), (for_others, tested)):
        assert client.get(f"{LIST}/{outbox_id}").content == nowhere.content
        assert client.post(RESEND, {"outboxId": outbox_id}).status_code == 404
        assert client.post(f"{LIST}/{outbox_id}/cancel").status_code == 404
    for client in (api, for_others):
        found = client.get(LIST, {"userId": str(account.user.pk)}).json()["results"]
        assert [entry["outboxId"] for entry in found] == [live]
    browser = Client()
    browser.force_login(account.user)
    assert tested not in browser.get("/outbox/").content.decode()


def test_a_test_key_acts_for_its_own_user_only(test_api, account, twin, client_of):
    other = str(UserFactory().pk)

    assert test_api.post(SEND, message(userId=str(account.user.pk))).status_code == 201
    assert test_api.post(SEND, message(userId=other)).json()["code"] == "acting_for_others_not_allowed"
    for_others = client_of(UserFactory(), may_act_for_others=True)
    assert for_others.post(SEND, message(userId=str(twin.pk))).json()["errors"][0]["code"] == "no_such_user"
    with pytest.raises(ValidationError):
        ApiKey.issue(account.user, "x", is_test=True, may_act_for_others=True)
    with pytest.raises(ValidationError):
        ApiKey.issue(twin, "x")


def test_a_test_key_begins_so_that_everybody_sees_it(account):
    test_key, test_secret = ApiKey.issue(account.user, "x", is_test=True)
    _, secret = ApiKey.issue(account.user, "x")

    rotated, rotated_secret = test_key.rotate()

    assert test_secret.startswith("sms_test_")
    assert test_secret.startswith(test_key.hint)
    assert len(test_key.hint) == len("sms_test_") + 8
    assert not secret.startswith("sms_test_")
    assert rotated_secret.startswith("sms_test_")
    assert rotated.user == test_key.user


def test_the_command_makes_test_keys(account, capsys):
    call_command("create_api_key", "amina", "--name", "try", "--test")

    secret = capsys.readouterr().out.strip()
    assert ApiKey.objects.get(digest=ApiKey.digest_of(secret)).user.live_user == account.user


# --- nobody's trouble -------------------------------------------------------------------------------------------------


def test_what_tests_leave_unknown_is_no_case_for_the_staff(test_api, admin_site, provider):
    test_api.post(SEND, message("+254711000004"))
    drain()
    Outbox.objects.update(last_attempt_at=Now() - notices.UNKNOWN_IS_LATE * 2)

    notices.watch_unknown()

    outbox_id = str(Outbox.objects.get(outcome="unknown").pk)
    assert outbox_id not in admin_site.get(reverse("admin:outbox_unknownoutcome_changelist")).content.decode()
    assert "smsportal_unknown_messages 0.0" in Client().get("/metrics").content.decode()
    assert not Notice.objects.exists()


def test_whoever_tests_failures_pauses_the_simulator_for_nobody(test_api, provider):
    for number in range(circuits.PAUSE_AT + 5):
        digits = "02" if number % 2 else "04"
        assert test_api.post(SEND, message(f"+25471100{number:02}{digits}")).status_code == 201

    drain()

    assert ProviderState.objects.get(provider="test").circuit == "closed"
    assert not Notice.objects.exists()


# --- a twin is nobody -------------------------------------------------------------------------------------------------


def test_nobody_logs_in_as_a_twin(twin, rf):
    for password in ("", "!", "password"):
        assert authenticate(rf.post("/login/"), username=twin.username, password=password) is None
    twin.set_password("correct horse")
    with pytest.raises(IntegrityError), transaction.atomic():
        twin.save()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=twin.pk).update(is_staff=True)


def test_the_admin_marks_twins_and_changes_and_offers_none(admin_site, twin):
    users = reverse("admin:smsportal_user_changelist")
    asked = {"term": "amina", "app_label": "smsportal", "model_name": "apikey", "field_name": "user"}

    assert "amina (test)" not in admin_site.get(users).content.decode()
    assert "amina (test)" in admin_site.get(f"{users}?twins=yes").content.decode()
    offered = admin_site.get(reverse("admin:autocomplete"), asked).json()["results"]
    assert [found["text"] for found in offered] == ["amina"]
    change = reverse("admin:smsportal_user_change", args=[twin.pk])
    assert admin_site.post(change, {"username": "x"}).status_code == 403
    assert admin_site.post(reverse("admin:auth_user_password_change", args=[twin.pk]), {}).status_code == 403
    form = {"user": twin.pk, "name": "x", "scopes": ["send"], "expires_at_0": "", "expires_at_1": ""}
    admin_site.post(reverse("admin:smsportal_apikey_add"), form)
    assert ApiKey.objects.count() == 1


def test_a_test_key_goes_with_its_live_user(test_api, account):
    assert test_api.get(LIST).status_code == 200

    User.objects.filter(pk=account.user.pk).update(is_active=False)

    assert test_api.get(LIST).status_code == 401


def test_staff_resend_a_failed_test_to_the_simulator_again(test_api, provider):
    test_api.post(SEND, message("+254711000001"))
    drain()

    sending.resend(Outbox.objects.get())
    drain()

    assert Outbox.objects.get().attempts.count() == 2
    assert provider.messages == []
