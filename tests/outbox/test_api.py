"""The outbox over HTTP, to the letter of the contract."""

import json
import re
import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import OperationalError
from django.utils import timezone

from billing import ledger
from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.models import IdempotencyKey, Outbox
from outbox.providers.base import OutcomeUnknown, Rejected
from smsportal.models import uuid7
from tests.factories import SenderIdFactory, UserFactory
from tests.threads import at_once

SEND, RESEND, LIST = "/api/sms/send", "/api/sms/outbox/resend", "/api/sms/outbox"
BODY = {"recipientPhoneNumber": "+254711000001", "message": "Your code is 4321"}


def drain():
    Dispatcher(concurrency=4).run(once=True)


def test_send_answers_201_with_the_entry_to_the_letter(api, account):
    response = api.post(
        SEND,
        BODY | {"messageId": "order-7781", "tags": ["OTP"], "customData": {"linkedTransactionId": "txn789"}},
    )

    entry = Outbox.objects.get()
    assert response.status_code == 201
    assert response["Location"] == f"{LIST}/{entry.pk}"
    assert response["Content-Type"] == "application/json"
    assert json.loads(response.content) == {
        "outboxId": str(entry.pk),
        "userId": str(account.user_id),
        "recipientPhoneNumber": "+254711000001",
        "message": "Your code is 4321",
        "senderId": "MYBRAND",
        "messageId": "order-7781",
        "messageName": None,
        "smsUnitsUsed": 1,
        "costPerUnit": 1.0,
        "totalCost": 1.0,
        "currency": "KES",
        "chargeStatus": "held",
        "encoding": "GSM-7",
        "status": "pending",
        "outcome": None,
        "deliveryStatus": None,
        "timestamps": {
            "createdAt": entry.created_at.isoformat().replace("+00:00", "Z"),
            "sentAt": None,
            "lastAttemptAt": None,
        },
        "scheduledAt": None,
        "expiresAt": entry.expires_at.isoformat().replace("+00:00", "Z"),
        "deliveredAt": None,
        "retryCount": 0,
        "maxRetries": 3,
        "errorCode": None,
        "errorDetails": None,
        "priority": "normal",
        "tags": ["OTP"],
        "customData": {"linkedTransactionId": "txn789"},
    }


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("recipientPhoneNumber", {"recipientPhoneNumber": None}),
        ("recipientPhoneNumber", {"recipientPhoneNumber": 254711000001}),
        ("recipientPhoneNumber", {"recipientPhoneNumber": ["+254711000001"]}),
        ("recipientPhoneNumber", {"recipientPhoneNumber": "+44 (0)7700 900123"}),
        ("recipientPhoneNumber", {"recipientPhoneNumber": "+٢٥٤٧١١٠٠٠٠٠١"}),
        ("recipientPhoneNumber", {"recipientPhoneNumber": "+254711000001\n"}),
        ("message", {"message": 12345}),
        ("message", {"message": True}),
        ("message", {"message": ["a"]}),
        ("message", {"message": {"a": 1}}),
        ("message", {"message": None}),
        ("message", {"message": ""}),
        ("message", {"message": "\u200b\u2060"}),
        ("senderId", {"senderId": "TWELVECHARSX"}),
        ("senderId", {"senderId": "+447400123456"}),
        ("userId", {"userId": "amina"}),
        ("userId", {"userId": 5}),
        ("messageId", {"messageId": "x" * 129}),
        ("messageId", {"messageId": ""}),
        ("scheduleTimestamp", {"scheduleTimestamp": "2030-01-01T00:00:00"}),
        ("scheduleTimestamp", {"scheduleTimestamp": "2020-01-01T00:00:00Z"}),
        ("scheduleTimestamp", {"scheduleTimestamp": "2099-01-01T00:00:00Z"}),
        ("scheduleTimestamp", {"scheduleTimestamp": "0001-01-01T00:00:00+14:00"}),
        ("scheduleTimestamp", {"scheduleTimestamp": "2030-02-30T00:00:00Z"}),
        ("scheduleTimestamp", {"scheduleTimestamp": 1893456000}),
        ("priority", {"priority": "urgent"}),
        ("priority", {"priority": 1}),
        ("tags", {"tags": "OTP"}),
        ("tags", {"tags": ["a", "a"]}),
        ("tags", {"tags": [["a"]]}),
        ("tags", {"tags": [None]}),
        ("tags", {"tags": [1]}),
        ("tags", {"tags": [str(number) for number in range(2_000)]}),
        ("customData", {"customData": ["a"]}),
        ("customData", {"customData": "a"}),
        ("customData", {"customData": 1}),
        ("customData", {"customData": {"a": "x" * 5_000}}),
        ("customData", {"customData": {"a": {"b": {"c": {"d": {"e": 1}}}}}}),
        ("customData", {"customData": {"a": "\u0000"}}),
        ("customData", {"customData": {"\u0000": "a"}}),
        ("customData", {"customData": {"a": ["\ud800"]}}),
        ("maxTotalCost", {"maxTotalCost": -1}),
        ("maxTotalCost", {"maxTotalCost": "1"}),
        ("maxTotalCost", {"maxTotalCost": 1.00001}),
        ("maxTotalCost", {"maxTotalCost": True}),
        ("maxTotalCost", {"maxTotalCost": 10**14}),
        ("validityMinutes", {"validityMinutes": 0}),
        ("validityMinutes", {"validityMinutes": 1.5}),
        ("validityMinutes", {"validityMinutes": 2**31}),
        ("validityMinutes", {"validityMinutes": 10**30}),
        ("status", {"status": "sent"}),
        ("totalCost", {"totalCost": 0}),
        ("smsUnitsUsed", {"smsUnitsUsed": -1}),
        ("outboxId", {"outboxId": "019ab3c2-0000-7000-8000-000000000000"}),
        ("sender_id", {"sender_id": "X"}),
    ],
)
def test_bad_input_is_a_400_naming_the_field_and_leaves_no_trace(api, account, provider, field, change):
    response = api.post(SEND, json.dumps(BODY | change), content_type="application/json")

    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    problem = json.loads(response.content)
    assert (problem["status"], problem["code"]) == (400, "invalid")
    # "tags.0" is the first of the tags.
    assert {re.sub(r"\.\d+$", "", error["field"]) for error in problem["errors"]} == {field}
    assert all(error["message"] and error["code"] for error in problem["errors"])
    account.refresh_from_db()
    assert (Outbox.objects.count(), account.held, provider.messages) == (0, 0, [])


def test_a_misspelt_field_is_named_with_the_one_that_is_missing(api):
    response = api.post(SEND, {"recipientPhoneNumer": "+254711000001", "message": "x"})

    messages = {error["field"]: error["message"] for error in json.loads(response.content)["errors"]}
    assert messages.keys() == {"recipientPhoneNumer", "recipientPhoneNumber"}
    assert "Did you mean recipientPhoneNumber?" in messages["recipientPhoneNumer"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"{} trailing",
        b"\xef\xbb\xbf{}",
        b'{"message": "\xff"}',
        b'{"message": "a", "message": "b"}',
        b'{"a":"' + b'\\"' * 30_000,
        b"{" + b",".join(b'"%d":1' % number for number in range(5_000)) + b',"4999":1}',
        b'{"maxTotalCost": NaN}',
        b'{"maxTotalCost": Infinity}',
        b'{"maxTotalCost": 1e999}',
        b'{"customData": ' + b'{"a":' * 1_000 + b"1" + b"}" * 1_000 + b"}",
        b'{"customData": ' + b"[" * 30_000,
        b'{"maxTotalCost": ' + b"9" * 5_000 + b"}",
    ],
)
def test_a_body_that_is_not_one_plain_json_object_is_a_400(api, body):
    response = api.post(SEND, body, content_type="application/json")

    assert (response.status_code, json.loads(response.content)["code"]) == (400, "invalid")
    assert not Outbox.objects.exists()


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "*/*",
        "application/*",
        "",
    ],
)
def test_only_json_in_utf8_is_read(api, content_type):
    response = api.generic("POST", SEND, json.dumps(BODY), content_type=content_type)

    assert (response.status_code, json.loads(response.content)["code"]) == (415, "unsupported_media_type")


def test_a_body_that_is_too_large_is_a_413(api):
    response = api.post(SEND, json.dumps(BODY | {"message": "x" * 70_000}), content_type="application/json")

    assert (response.status_code, json.loads(response.content)["code"]) == (413, "body_too_large")


def test_unpaid_is_a_402_with_the_logged_entry(api, account):
    ledger.adjust(account, Decimal("-9.5"), reason="correction")

    response = api.post(SEND, BODY)

    problem = json.loads(response.content)
    assert (response.status_code, problem["code"]) == (402, "insufficient_balance")
    assert (problem["required"], problem["available"], problem["currency"]) == (1.0, 0.5, "KES")
    assert problem["outbox"]["outboxId"] == str(Outbox.objects.get().pk)
    assert (problem["outbox"]["status"], problem["outbox"]["chargeStatus"]) == ("failed", "none")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"message": "x" * 2_000}, "too_many_segments"),
        ({"message": "😀" * 10_000}, "too_many_segments"),
        ({"maxTotalCost": 0.5}, "max_total_cost_exceeded"),
    ],
)
def test_what_the_sender_or_operator_does_not_want_is_a_422(api, change, code):
    response = api.post(SEND, BODY | change)

    assert (response.status_code, json.loads(response.content)["code"]) == (422, code)
    assert not Outbox.objects.exists()


def test_without_a_price_it_is_a_422(client_of, user):
    response = client_of(user).post(SEND, BODY)

    assert (response.status_code, json.loads(response.content)["code"]) == (422, "no_price")


# --- the same again ---------------------------------------------------------------------------------------------------


def test_a_repeated_key_answers_200_with_the_entry_as_it_now_stands(api, provider):
    first = api.post(SEND, BODY, headers={"Idempotency-Key": "k-1"})
    drain()

    # Names in another order, and white space, make no other request.
    again = api.post(
        SEND,
        json.dumps(dict(reversed(BODY.items())), indent=3),
        content_type="application/json",
        headers={"Idempotency-Key": "k-1"},
    )

    assert (first.status_code, again.status_code) == (201, 200)
    assert again["Idempotent-Replayed"] == "true"
    assert again.json()["outboxId"] == first.json()["outboxId"]
    assert again.json()["status"] == "sent"
    assert len(provider.messages) == 1


def test_a_repeated_key_with_another_body_is_a_422(api):
    api.post(SEND, BODY, headers={"Idempotency-Key": "k-1"})

    response = api.post(SEND, BODY | {"message": "Another"}, headers={"Idempotency-Key": "k-1"})

    assert (response.status_code, json.loads(response.content)["code"]) == (422, "idempotency_key_reused")


def test_a_repeated_message_id_does_the_same(api):
    body = BODY | {"messageId": "order-1"}

    answers = [api.post(SEND, body), api.post(SEND, body), api.post(SEND, body | {"message": "Another"})]

    assert [answer.status_code for answer in answers] == [201, 200, 422]
    assert answers[1]["Idempotent-Replayed"] == "true"


def test_a_schedule_may_be_repeated_after_its_time(api):
    body = BODY | {"scheduleTimestamp": (timezone.now() + timedelta(hours=1)).isoformat()}
    api.post(SEND, body, headers={"Idempotency-Key": "k"})
    body_then = body | {"scheduleTimestamp": "2020-01-01T00:00:00Z"}
    from outbox.idempotency import fingerprint

    IdempotencyKey.objects.update(fingerprint=fingerprint("send", body_then))

    assert api.post(SEND, body_then, headers={"Idempotency-Key": "k"}).status_code == 200


def test_keys_are_each_users_own(api, client_of, price):
    other = UserFactory()
    ledger.top_up(ledger.account_of(other), Decimal(5), reason="x")

    answers = [c.post(SEND, BODY, headers={"Idempotency-Key": "k"}) for c in (api, client_of(other))]

    assert [answer.status_code for answer in answers] == [201, 201]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "schlüssel", "a,b"])
def test_a_key_that_cannot_be_one_is_a_400(api, key):
    response = api.post(SEND, BODY, headers={"Idempotency-Key": key})

    problem = json.loads(response.content)
    assert (response.status_code, problem["errors"][0]["field"]) == (400, "Idempotency-Key")
    assert not Outbox.objects.exists()


# --- resend -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(account, provider):
    provider.error = Rejected("unknown subscriber")
    entry = sending.send(account.user, recipient="+254711000001", text="Your code is 4321")
    drain()
    provider.error = None
    return entry


def test_resend_answers_200_with_the_same_entry_pending_again(api, failed, provider):
    response = api.post(RESEND, {"outboxId": str(failed.pk)})

    assert response.status_code == 200
    entry = response.json()
    assert (entry["outboxId"], entry["status"], entry["retryCount"]) == (str(failed.pk), "pending", 1)


@pytest.mark.parametrize("outcome", [None, "unknown"])
def test_resending_what_has_not_failed_is_a_409_with_its_state(api, account, provider, outcome):
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    provider.error = OutcomeUnknown("no answer") if outcome else None
    drain()

    response = api.post(RESEND, {"outboxId": str(entry.pk)})

    problem = json.loads(response.content)
    assert (response.status_code, problem["code"], problem["status"]) == (409, "not_failed", 409)
    assert problem["outcome"] == problem["outbox"]["outcome"] == outcome
    assert problem["outbox"]["status"] == ("pending" if outcome else "sent")


def test_resending_past_the_cap_is_a_409_with_both_numbers(api, failed):
    Outbox.objects.update(retry_count=3)

    response = api.post(RESEND, {"outboxId": str(failed.pk)})

    problem = json.loads(response.content)
    assert (response.status_code, problem["code"]) == (409, "retry_limit_reached")
    assert (problem["retryCount"], problem["maxRetries"]) == (3, 3)


@pytest.mark.parametrize("body", [{}, {"outboxId": 1}, {"outboxId": None}, {"outboxId": ["x"]}, {"id": "x"}])
def test_resend_names_what_is_wrong(api, body):
    response = api.post(RESEND, body)

    assert response.status_code == 400


@pytest.mark.django_db(transaction=True)
def test_of_forty_racing_resends_over_http_exactly_one_wins(client_of, failed, account):
    clients = [client_of(account.user) for _ in range(40)]

    answers = at_once(40, lambda number: clients[number].post(RESEND, {"outboxId": str(failed.pk)}).status_code)

    assert sorted(answers) == [200] + [409] * 39
    assert Outbox.objects.get().retry_count == 1


def test_a_waiting_message_can_be_cancelled_and_only_then(api, account):
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    address = f"{LIST}/{entry.pk}/cancel"

    cancelled, again = api.post(address), api.post(address)

    assert cancelled.status_code == 200
    assert (cancelled.json()["status"], cancelled.json()["errorCode"]) == ("failed", "cancelled")
    assert cancelled.json()["chargeStatus"] == "released"
    assert (again.status_code, again.json()["code"]) == (409, "not_cancellable")
    assert api.get(address).status_code == 405


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_log_is_newest_first_in_pages_that_join_without_gap_or_overlap(api, account):
    ids = [str(sending.send(account.user, recipient="+254711000001", text="x").pk) for _ in range(5)]

    pages, address = [], f"{LIST}?pageSize=2"
    while address:
        page = api.get(address).json()
        pages.append([entry["outboxId"] for entry in page["results"]])
        address = page["next"]

    assert pages == [ids[:2:-1], ids[2:0:-1], ids[:1]]
    back = api.get(page["previous"]).json()
    assert [entry["outboxId"] for entry in back["results"]] == pages[1]
    assert set(page) == {"next", "previous", "results"}


def test_what_comes_and_goes_while_somebody_reads_moves_no_page(api, account):
    entries = [sending.send(account.user, recipient="+254711000001", text="x") for _ in range(6)]
    ids = [str(entry.pk) for entry in reversed(entries)]
    first = api.get(f"{LIST}?pageSize=2").json()
    assert [entry["outboxId"] for entry in first["results"]] == ids[:2]

    sending.send(account.user, recipient="+254711000001", text="newer")
    for gone in (ids[1], ids[2]):  # the last that was read, and the next that was to be
        Outbox.objects.filter(pk=gone).delete()

    second = api.get(first["next"]).json()
    third = api.get(second["next"]).json()
    assert [entry["outboxId"] for page in (second, third) for entry in page["results"]] == ids[3:]


@pytest.mark.parametrize(
    "query",
    [
        "cursor=nonsense",
        "cursor=",
        "cursor=cD0x",
        "cursor=cD14JnA9MDE5YWIzYzItMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDAw",  # p=x&p=<a UUID>
        "cursor=cD0mcD0wMTlhYjNjMi0wMDAwLTcwMDAtODAwMC0wMDAwMDAwMDAwMDA=",  # p=&p=<a UUID>
        "cursor=cj0xJnA9JzsgRFJPUCBUQUJMRQ==",
        "pageSize=0",
        "pageSize=201",
        "pageSize=x",
        "pageSize=-1",
        "pageSize=00000000199999",
        f"pageSize={'9' * 5000}",
        "createdAfter=2026-01-01",
        "createdAfter=2026-01-01T00:00:00",
        "status=delivered",
        "status__regex=(a%2B)%2B$",
        "user__password__startswith=x",
        "createdAfter=yesterday",
        "userId=x",
        "tag=%00",
        "colour=blue",
        "status=",
        "createdBefore=",
        "tag=%20",
    ],
)
def test_a_question_that_makes_no_sense_is_a_400(api, query):
    response = api.get(f"{LIST}?{query}")

    assert (response.status_code, json.loads(response.content)["code"]) == (400, "invalid")
    assert json.loads(response.content)["errors"]


def test_each_filter_finds_its_messages_and_no_others(api, account, provider):
    SenderIdFactory(user=account.user, name="OTHER")
    provider.error = Rejected("no")
    wanted = sending.send(
        account.user,
        recipient="+254711000077",
        text="x",
        sender_id="OTHER",
        message_id="order-1",
        tags=["a", "b"],
        custom_data={"linkedTransactionId": "txn1", "purpose": "x"},
    )
    drain()
    provider.error = None
    other = sending.send(account.user, recipient="+254711000001", text="x")

    def found(query):
        response = api.get(f"{LIST}?{query}")
        assert response.status_code == 200, response.content
        return [entry["outboxId"] for entry in response.json()["results"]]

    for query in (
        "status=failed",
        "recipientPhoneNumber=%2B254711000077",
        "recipientPhoneNumber=+254711000077",
        "recipientPhoneNumber=0711000077",
        "senderId=OTHER",
        "messageId=order-1",
        "tag=b",
        "linkedTransactionId=txn1",
        f"createdBefore={other.created_at.isoformat().replace('+00:00', 'Z')}",
        "status=failed&tag=a",
    ):
        assert found(query) == [str(wanted.pk)], query
    assert found(f"createdAfter={other.created_at.isoformat().replace('+00:00', 'Z')}") == [str(other.pk)]
    assert found("status=sent") == found("outcome=unknown") == found("deliveryStatus=delivered") == []
    assert found("recipientPhoneNumber=nonsense") == []


def test_one_message_comes_with_its_attempts_and_its_money(api, failed):
    entry = api.get(f"{LIST}/{failed.pk}").json()

    (attempt,) = entry["attempts"]
    assert set(attempt) == {
        "number",
        "provider",
        "startedAt",
        "finishedAt",
        "outcome",
        "providerMessageId",
        "errorCode",
    }
    assert (attempt["number"], attempt["outcome"], attempt["errorCode"]) == (1, "rejected", "provider_rejected")
    assert [(line["kind"], line["amount"], line["balanceAfter"]) for line in entry["ledger"]] == [
        ("hold", 1.0, 10.0),
        ("release", 1.0, 10.0),
    ]


# --- whose is whose ---------------------------------------------------------------------------------------------------


def test_anothers_message_is_as_unknown_as_one_that_does_not_exist(client_of, failed, price):
    stranger = client_of(UserFactory())

    def answers(outbox_id):
        yield stranger.get(f"{LIST}/{outbox_id}")
        yield stranger.post(RESEND, {"outboxId": str(outbox_id)})

    for theirs, nobodys, nonsense in zip(answers(failed.pk), answers(uuid7()), answers("nonsense"), strict=True):
        assert theirs.status_code == 404
        assert theirs.content == nobodys.content == nonsense.content
    assert stranger.get(LIST).json()["results"] == []
    assert Outbox.objects.get().retry_count == 0


def test_sending_for_another_user_takes_a_key_that_may(client_of, account, price):
    other = UserFactory()
    ledger.top_up(ledger.account_of(other), Decimal(5), reason="x")
    body = BODY | {"userId": str(other.pk)}

    refused = client_of(account.user).post(SEND, body)
    allowed = client_of(account.user, may_act_for_others=True).post(SEND, body)
    nobody = client_of(account.user, may_act_for_others=True).post(SEND, BODY | {"userId": str(uuid.uuid4())})

    assert (refused.status_code, refused.json()["code"]) == (403, "acting_for_others_not_allowed")
    assert (allowed.status_code, allowed.json()["userId"]) == (201, str(other.pk))
    assert (nobody.status_code, nobody.json()["errors"][0]["field"]) == (400, "userId")
    assert ledger.account_of(other).held == 1
    assert ledger.account_of(account.user).held == 0


def test_reading_for_another_user_takes_a_key_that_may(client_of, account, failed, price):
    other = UserFactory()
    query = f"{LIST}?userId={account.user_id}"

    assert client_of(other).get(query).status_code == 403
    delegate = client_of(other, may_act_for_others=True)
    assert len(delegate.get(query).json()["results"]) == 1
    assert delegate.get(LIST).json()["results"] == []
    assert delegate.get(f"{LIST}/{failed.pk}").status_code == 200


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_prefer_wait_answers_at_once_when_the_outcome_is_known(api, failed, provider):
    provider.error = None
    api.post(RESEND, {"outboxId": str(failed.pk)}, headers={"Idempotency-Key": "k"})
    drain()

    response = api.post(RESEND, {"outboxId": str(failed.pk)}, headers={"Idempotency-Key": "k", "Prefer": "wait=30"})

    assert (response.status_code, response.json()["status"]) == (200, "sent")


@pytest.mark.django_db(transaction=True)
def test_prefer_wait_delays_the_answer_until_the_outcome_is_known(api, provider):
    from threading import Thread

    from django.db import connections

    def work():
        while not Outbox.objects.filter(status="sent").exists():
            drain()
        connections.close_all()

    worker = Thread(target=work)
    worker.start()
    response = api.post(SEND, BODY, headers={"Prefer": "respond-async, wait=30"})
    worker.join(30)

    assert (response.status_code, response.json()["status"]) == (201, "sent")


def test_prefer_wait_gives_up_after_its_seconds(api):
    response = api.post(SEND, BODY, headers={"Prefer": "wait=1"})

    assert (response.status_code, response.json()["status"]) == (201, "pending")


def test_an_accepted_message_is_never_answered_with_an_error(api, monkeypatch):
    def down(*_, **__):
        raise OperationalError("the database went away while the caller waited")

    monkeypatch.setattr(Outbox, "refresh_from_db", down)

    response = api.post(SEND, BODY, headers={"Prefer": "wait=10"})

    assert (response.status_code, response.json()["status"]) == (201, "pending")
