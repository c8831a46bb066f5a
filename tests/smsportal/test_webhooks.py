"""Users' apps are told of what happened: signed, once it is committed, again and again until they say they have it."""

import dataclasses
import json
import threading
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from standardwebhooks import Webhook, WebhookVerificationError

from billing import ledger
from outbox import outcomes, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.providers.base import DeliveryReceipt, Rejected
from smsportal import notices
from smsportal.models import Notice, WebhookDelivery, WebhookEndpoint
from smsportal.webhooks import deliveries, events
from tests.factories import UserFactory
from tests.outbox.attempts import unknown_message
from tests.smsportal.receiver import receiver
from tests.threads import at_once

WEBHOOKS = "/api/webhooks"


@pytest.fixture
def mine(settings):
    """The user's own server."""
    settings.WEBHOOKS_TO_PRIVATE_ADDRESSES = True
    with receiver() as found:
        yield found


@pytest.fixture
def hook(api, mine):
    """An endpoint for all events, as its user has made it."""
    return api.post(WEBHOOKS, {"url": mine.url}).json()


def told(mine):
    return [json.loads(body)["type"] for _, _, body in mine.requests]


def tell_all():
    """What a worker does, as often as something is due."""
    while claimed := deliveries.claim([]):
        for one in claimed:
            deliveries.finish(one, deliveries.tell(one))


def send(account, **options):
    return sending.send(account.user, recipient="+254711000001", text="Your code is 4321", tags=["OTP"], **options)


def test_what_becomes_of_a_message_is_told(account, provider, hook, mine):
    entry = send(account)
    Dispatcher(concurrency=1).run(once=True)
    receipts.apply("locmem", DeliveryReceipt("delivered", str(entry.pk)))
    provider.error = Rejected("unknown subscriber")
    send(account, message_id="second")
    Dispatcher(concurrency=1).run(once=True)
    tell_all()

    assert sorted(told(mine)) == ["sms.delivered", "sms.failed", "sms.sent"]
    event = json.loads(mine.requests[told(mine).index("sms.delivered")][2])
    assert event["data"]["outboxId"] == str(entry.pk)
    assert (event["data"]["status"], event["data"]["deliveryStatus"]) == ("sent", "delivered")
    assert event["timestamp"].endswith("Z")


def test_neither_text_nor_number_is_told(account, provider, hook, mine):
    send(account)
    Dispatcher(concurrency=1).run(once=True)
    tell_all()

    body = mine.requests[0][2].decode()
    assert "4321" not in body
    assert "711000001" not in body


def test_each_is_signed_as_standard_webhooks_has_it(account, provider, hook, mine):
    send(account)
    Dispatcher(concurrency=1).run(once=True)
    tell_all()

    _, headers, body = mine.requests[0]
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == f"msg_{WebhookDelivery.objects.get().pk}"
    assert Webhook(hook["secret"]).verify(body, headers)["type"] == "sms.sent"
    with pytest.raises(WebhookVerificationError):
        Webhook(WebhookEndpoint.new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(hook["secret"]).verify(body + b" ", headers)


def test_only_the_events_that_were_chosen_are_told_and_only_to_their_user(account, provider, api, mine, client_of):
    api.post(WEBHOOKS, {"url": mine.url, "events": ["sms.failed"]})
    client_of(UserFactory()).post(WEBHOOKS, {"url": mine.url})

    send(account)
    Dispatcher(concurrency=1).run(once=True)

    assert not WebhookDelivery.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_event_is_committed_with_its_fact_or_not_at_all(account, provider, hook):
    entry = unknown_message(account)

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        outcomes.settle_unknown(entry.pk, 1, sent=True, details="")
        assert WebhookDelivery.objects.count() == 1
        raise ZeroDivisionError

    assert not WebhookDelivery.objects.exists()


def due_now():
    WebhookDelivery.objects.filter(due_at__isnull=False).update(due_at=Now())


@pytest.mark.parametrize("status", [500, 404, 302, 429, 199 + 101])
def test_what_is_not_answered_with_2xx_is_told_again_later(account, hook, mine, status):
    mine.says = status
    events.record_test(WebhookEndpoint.objects.get())

    tell_all()

    delivery = WebhookDelivery.objects.annotate(pause=F("due_at") - Now()).get()
    assert (delivery.attempts, delivery.last_status, delivery.delivered_at) == (1, status, None)
    assert 3 < delivery.pause.total_seconds() <= 5 * 1.25
    mine.says = 204
    due_now()
    tell_all()
    delivery.refresh_from_db()
    assert (delivery.last_status, delivery.due_at) == (204, None)
    assert delivery.delivered_at is not None
    first, second = ((headers["webhook-id"], body) for _, headers, body in mine.requests)
    assert first == second


def test_it_is_told_for_three_days_and_then_the_endpoint_is_disabled_and_its_user_told(account, api, hook, mine):
    mine.says = 500
    events.record_test(WebhookEndpoint.objects.get())
    for _ in range(20):
        tell_all()
        due_now()

    assert len(mine.requests) == 10
    assert 70 * 3600 < sum(deliveries.PAUSES_S) < 80 * 3600
    shown = api.get(f"{WEBHOOKS}/{hook['webhookId']}").json()
    assert "three days" in shown["disabledReason"]
    notice = Notice.objects.get(user=account.user, kind="webhook.disabled")
    assert notice.ended_at is None

    assert api.post(f"{WEBHOOKS}/{hook['webhookId']}/enable").json()["disabledAt"] is None
    notice.refresh_from_db()
    assert notice.ended_at is not None


def test_an_endpoint_that_says_it_is_gone_is_told_nothing_more(account, provider, api, hook, mine):
    mine.says = 410
    for _ in range(2):
        events.record_test(WebhookEndpoint.objects.get())
    (first, _) = deliveries.claim([])
    deliveries.finish(first, deliveries.tell(first))
    due_now()
    tell_all()

    assert len(mine.requests) == 1
    send(account)
    Dispatcher(concurrency=1).run(once=True)
    assert WebhookDelivery.objects.filter(event="sms.sent").count() == 0


def test_one_that_hangs_is_over_after_its_time_and_keeps_no_other_waiting(account, hook, mine, monkeypatch, api):
    monkeypatch.setattr(deliveries, "TIMEOUT_S", 0.3)
    over = threading.Event()
    mine.says = lambda handler: over.wait(10)
    for _ in range(10):
        events.record_test(WebhookEndpoint.objects.get())
    api.post(WEBHOOKS, {"url": mine.url})
    events.record_test(WebhookEndpoint.objects.order_by("-pk")[0])

    claimed = deliveries.claim([])
    shares = [sum(one.endpoint_id == endpoint for one in claimed) for endpoint in {one.endpoint_id for one in claimed}]
    assert sorted(shares) == [1, deliveries.PLACES_OF_ENDPOINT]
    answer = deliveries.tell(claimed[0])
    over.set()

    assert answer.status is None
    assert "No answer within" in str(answer.error)


def test_one_users_flood_keeps_no_other_waiting(account, api, hook, mine, client_of):
    for _ in range(3):
        api.post(WEBHOOKS, {"url": mine.url})
    for endpoint in WebhookEndpoint.objects.all():
        for _ in range(40):
            events.record_test(endpoint)
    client_of(UserFactory()).post(WEBHOOKS, {"url": mine.url})
    other = events.record_test(WebhookEndpoint.objects.exclude(user=account.user).get())

    claimed = deliveries.claim([])

    assert other.pk in {one.id for one in claimed}
    assert len(claimed) == deliveries.PLACES_OF_USER + 1
    assert deliveries.claim(claimed) == []


def test_tests_and_replays_are_for_people_and_not_for_loops(api, hook):
    answers = [api.post(f"{WEBHOOKS}/{hook['webhookId']}/test") for _ in range(31)]

    assert [answer.status_code for answer in answers] == [201] * 30 + [429]
    assert answers[-1].json()["limit"] == "webhookTests"


@pytest.mark.django_db(transaction=True)
def test_several_workers_tell_each_event_once(account, hook, mine):
    for _ in range(12):
        events.record_test(WebhookEndpoint.objects.get())

    for _ in range(3):
        at_once(4, lambda _: tell_all())

    assert len({headers["webhook-id"] for _, headers, _ in mine.requests}) == len(mine.requests) == 12


def test_a_worker_that_dies_leaves_its_delivery_to_another_and_writes_nothing_when_it_wakes(account, hook, mine):
    events.record_test(WebhookEndpoint.objects.get())
    (stale,) = deliveries.claim([])
    assert deliveries.claim([]) == []
    due_now()  # its lease is over
    (other,) = deliveries.claim([])
    deliveries.finish(other, deliveries.Answer(200))

    deliveries.finish(stale, deliveries.Answer(500))

    delivery = WebhookDelivery.objects.get()
    assert (delivery.last_status, delivery.due_at) == (200, None)


@pytest.mark.django_db(transaction=True)
def test_a_dispatcher_tells_by_itself(account, provider, hook, mine):
    send(account)
    worker = Dispatcher(concurrency=1)

    def wait_for_it():
        for _ in range(300):
            if mine.requests:
                break
            threading.Event().wait(0.05)
        worker.stop()

    watcher = threading.Thread(target=wait_for_it)
    watcher.start()
    worker.run()
    watcher.join()

    assert told(mine) == ["sms.sent"]


# --- managing them ----------------------------------------------------------------------------------------------------


def test_an_endpoint_is_made_shown_tried_and_removed(api, hook, mine):
    assert hook["events"] == ["sms.sent", "sms.failed", "sms.delivered", "balance.low"]
    assert hook["secret"].startswith("whsec_")
    shown = api.get(WEBHOOKS).json()["results"]
    assert [one["webhookId"] for one in shown] == [hook["webhookId"]]
    assert "secret" not in shown[0]

    address = f"{WEBHOOKS}/{hook['webhookId']}"
    tried = api.post(f"{address}/test")
    assert tried.status_code == 201
    tell_all()
    (logged,) = api.get(f"{address}/deliveries").json()["results"]
    assert (logged["deliveryId"], logged["lastStatus"]) == (tried.json()["deliveryId"], 200)
    assert api.post(f"{address}/deliveries/{logged['deliveryId']}/replay").json()["deliveredAt"] is None
    tell_all()
    assert len(mine.requests) == 2

    assert api.delete(address).status_code == 204
    assert api.get(WEBHOOKS).json()["results"] == []


def test_a_strangers_endpoint_is_as_unknown_as_one_that_does_not_exist(hook, client_of, api):
    stranger = client_of(UserFactory())
    nobody = "019ab3c2-0000-7000-8000-000000000000"
    for method, tail in [("get", ""), ("delete", ""), ("post", "/enable"), ("post", "/test"), ("get", "/deliveries")]:
        answers = [
            getattr(stranger, method)(f"{WEBHOOKS}/{which}{tail}") for which in (hook["webhookId"], nobody, "nonsense")
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.content for answer in answers}) == 1
    assert api.get(f"{WEBHOOKS}/{hook['webhookId']}").status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 7}, "url"),
        ({"url": "http://127.0.0.1/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://1.1.1.1/", "events": []}, "events"),
        ({"url": "https://1.1.1.1/", "events": ["sms.read"]}, "events"),
        ({"url": "https://1.1.1.1/", "events": "sms.sent"}, "events"),
        ({"url": "https://1.1.1.1/", "secret": "mine"}, "secret"),
    ],
)
def test_bad_input_names_its_field_and_makes_no_endpoint(api, body, field):
    answer = api.post(WEBHOOKS, body)

    assert answer.status_code == 400
    assert field in [error["field"].split(".")[0] for error in answer.json()["errors"]]
    assert not WebhookEndpoint.objects.exists()


def test_there_are_at_most_ten(api, mine):
    answers = [api.post(WEBHOOKS, {"url": mine.url}).status_code for _ in range(11)]

    assert answers == [201] * 10 + [409]


def test_old_deliveries_are_forgotten_and_waiting_ones_are_not(hook):
    endpoint = WebhookEndpoint.objects.get()
    old, waiting = events.record_test(endpoint), events.record_test(endpoint)
    WebhookDelivery.objects.update(created_at=Now() - timedelta(days=31))
    WebhookDelivery.objects.filter(pk=old.pk).update(due_at=None)

    assert deliveries.purge() == 1

    assert WebhookDelivery.objects.get() == waiting
    WebhookEndpoint.objects.update(disabled_at=Now() - timedelta(days=31))
    assert deliveries.purge() == 1


def test_a_user_without_endpoints_costs_one_statement(account, django_assert_num_queries):
    with django_assert_num_queries(1):
        assert events.record("sms.sent", [account.user_id], lambda: pytest.fail("nobody listens")) == 0


def test_a_disabled_endpoint_is_a_notice_once(hook, account):
    endpoint = WebhookEndpoint.objects.get()
    for _ in range(3):
        deliveries.disable(endpoint.pk, "Tried.")

    notice = Notice.objects.get(kind="webhook.disabled")
    notices.read(notice)
    notice.refresh_from_db()
    assert notice.read_at is not None
    assert notice.ended_at is None  # until it is enabled


@pytest.mark.django_db(transaction=True)
def test_an_endpoint_that_is_removed_at_the_same_moment_costs_no_message_and_no_receipt(account, provider, api, mine):
    ledger.top_up(account, Decimal(100), reason="for many")
    entries = [send(account) for _ in range(12)]
    Dispatcher(concurrency=4).run(once=True)
    ids = [api.post(WEBHOOKS, {"url": mine.url}).json()["webhookId"] for _ in range(8)]

    def act(number):
        if number < len(ids):
            return deliveries.remove(ids[number])
        return receipts.apply("locmem", DeliveryReceipt("delivered", str(entries[number - len(ids)].pk))).effect

    results = at_once(len(ids) + len(entries), act)

    assert results == [None] * len(ids) + ["applied"] * len(entries)
    assert not WebhookEndpoint.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_endpoint_is_not_removed_between_an_event_and_its_commit(account, api, mine):
    hook_id = api.post(WEBHOOKS, {"url": mine.url}).json()["webhookId"]
    removing = threading.Thread(target=lambda: (deliveries.remove(hook_id), connection.close()))

    with transaction.atomic():
        events.record("sms.sent", [account.user_id], lambda: [(account.user_id, {})])
        removing.start()
        removing.join(0.5)
        assert removing.is_alive()
    removing.join(30)

    assert not WebhookDelivery.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_what_is_being_told_when_the_worker_ends_is_not_told_again(account, provider, hook, mine, monkeypatch):
    called = deliveries.CHORE.do
    slow = dataclasses.replace(deliveries.CHORE, do=lambda delivery: (time.sleep(0.5), called(delivery))[1])
    monkeypatch.setattr(deliveries, "CHORE", slow)
    events.record_test(WebhookEndpoint.objects.get())

    Dispatcher(concurrency=1).run(once=True)

    assert WebhookDelivery.objects.get().delivered_at is not None
    assert told(mine) == ["test"]
