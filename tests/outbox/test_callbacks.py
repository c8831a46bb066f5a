"""The door for delivery receipts: who may come in, what is kept of it, and what a repeated or forged one does."""

import json

import pytest
from django.test import Client

from billing.models import Posting
from outbox import outcomes, sending
from outbox.models import Outbox, Receipt
from outbox.providers.base import Accepted, Rejected
from tests.outbox.attempts import hand_over, lose_answer

PROVIDERS = {
    name: {
        "BACKEND": "outbox.providers.http.Provider",
        "OPTIONS": {
            "url": "https://gateway.example/",
            "json": {"to": "{recipient}", "text": "{text}"},
            "accepted": {"status": [200]},
            "receipt_token": f"secret-of-{name}",
            "receipt": {
                "reference": "/reference",
                "id": "/id",
                "status": "/status",
                "delivered": ["delivered"],
                "undelivered": ["failed"],
                "in_transit": ["sent"],
            },
        },
    }
    for name in ("acme", "other")
}


@pytest.fixture(autouse=True)
def two_providers(settings):
    settings.SMS_PROVIDERS = PROVIDERS


@pytest.fixture
def entry(account):
    return sending.send(account.user, recipient="+254711000001", text="Your code is 4321")


@pytest.fixture
def sent(entry):
    outcomes.settle([(hand_over(entry, "acme").pk, Accepted("p1"))])
    return entry


def address(provider="acme", token=None):
    return f"/api/providers/{provider}/receipts/{token or f'secret-of-{provider}'}"


def receive(document, where=None, content_type="application/json", **options):
    body = document if isinstance(document, bytes | str) else json.dumps(document)
    return Client().post(where or address(), body, content_type=content_type, **options)


def state(entry):
    entry.refresh_from_db()
    return entry.status, entry.delivery_status, entry.charge_status


@pytest.mark.parametrize(
    "where",
    [
        address(token="wrong"),
        address(token="secret-of-other"),  # another provider's secret
        address(token="secret-of-acme%20"),
        address(token="SECRET-OF-ACME"),
        address("nobody"),
        address("locmem", "x"),
    ],
)
def test_a_forged_receipt_is_refused_and_not_kept(sent, where):
    answer = receive({"reference": str(sent.pk), "status": "failed"}, where)

    assert answer.status_code == 403
    assert answer["Content-Type"] == "application/problem+json"
    assert state(sent) == ("sent", None, "charged")
    assert not Receipt.objects.exists()


def test_a_refusal_tells_nobody_which_providers_there_are(sent):
    answers = [receive({}, address("acme", "wrong")), receive({}, address("nobody", "wrong"))]

    assert len({answer.content for answer in answers}) == 1


def test_one_provider_does_not_speak_of_anothers_messages(sent):
    answer = receive({"reference": str(sent.pk), "id": "p1", "status": "failed"}, address("other"))

    assert answer.status_code == 200
    assert state(sent) == ("sent", None, "charged")
    assert Receipt.objects.get().effect == "orphan"


def test_a_receipt_ten_times_is_answered_ten_times_and_counts_once(sent):
    answers = [receive({"reference": str(sent.pk), "status": "delivered"}).status_code for _ in range(10)]

    assert answers == [200] * 10
    assert state(sent) == ("sent", "delivered", "charged")
    assert sorted(Receipt.objects.values_list("effect", flat=True)) == ["applied"] + ["repeated"] * 9
    assert Posting.objects.filter(kind="capture").count() == 1


@pytest.mark.parametrize("named", [{"reference": True}, {"id": "p1"}, {"reference": True, "id": "p1"}])
@pytest.mark.parametrize("status", ["failed", "sent"])
def test_an_old_receipt_that_is_replayed_does_nothing_to_the_resent_message(sent, named, status):
    old = named | {"status": status} | ({"reference": str(sent.pk)} if "reference" in named else {})
    receive({"reference": str(sent.pk), "id": "p1", "status": "failed"})
    again = sending.resend(Outbox.objects.get())
    assert receive(old).status_code == 200
    assert state(again) == ("pending", None, "held")
    outcomes.settle([(hand_over(again, "acme").pk, Accepted("p2"))])

    assert receive(old).status_code == 200

    assert state(again) == ("sent", None, "charged")
    assert list(Receipt.objects.order_by("pk").values_list("effect", flat=True)) == ["applied", "late", "late"]


def test_a_receipt_for_nobody_is_taken_and_kept(db):
    unknown = "019ab3c2-0000-7000-8000-000000000000"
    for document in ({"reference": unknown, "status": "delivered"}, {"id": "p9", "status": "failed"}):
        assert receive(document).status_code == 200

    kept = Receipt.objects.order_by("pk")
    assert [(receipt.outbox, receipt.effect) for receipt in kept] == [(None, "orphan")] * 2
    assert kept[0].raw == {"reference": unknown, "status": "delivered"}


@pytest.mark.parametrize("status", ["sent", "failed"])
def test_news_of_a_message_whose_money_was_given_back_is_kept_for_the_staff(entry, status):
    outcomes.settle([(hand_over(entry, "acme").pk, Rejected("no"))])
    assert state(entry) == ("failed", None, "released")

    assert receive({"reference": str(entry.pk), "status": status}).status_code == 200

    assert state(entry) == ("failed", None, "released")
    assert Receipt.objects.get().effect == ("contradicts" if status == "sent" else "repeated")


@pytest.mark.parametrize("status", ["dunno", "", None, ["delivered"], {"a": 1}, True, 7, "DELIVERED", "x" * 10_000])
def test_a_status_that_nobody_knows_is_kept_and_changes_nothing(sent, status):
    assert receive({"reference": str(sent.pk), "status": status}).status_code == 200

    assert state(sent) == ("sent", None, "charged")
    assert Receipt.objects.get().effect == "unrecognised"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>", "text/xml"),
        ("[" * 60_000, "application/json"),
        ("", "application/json"),
        ('{"status": "delivered"}', "application/json"),
        (b"\xff\xfe\x00", "application/json"),
        (b'{"reference": "' + b"x" * 5_000_000 + b'", "status": "delivered"}', "application/json"),
        ("--x", "multipart/form-data; boundary=x"),
    ],
)
def test_what_no_receipt_can_be_made_of_is_refused_politely(sent, body, content_type):
    answer = receive(body, content_type=content_type)

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert not Receipt.objects.exists()


def test_a_receipt_comes_by_get_or_post_and_in_no_other_way(sent):
    for method in ("put", "patch", "delete"):
        answer = getattr(Client(), method)(address())
        assert (answer.status_code, answer["Content-Type"]) == (405, "application/problem+json")
    # This provider's receipts are JSON: a GET has none.
    assert Client().get(address(), {"reference": str(sent.pk), "status": "delivered"}).status_code == 400
    assert state(sent) == ("sent", None, "charged")


def test_a_lost_answer_is_settled_by_its_receipt_alone_and_charged_once(entry):
    lose_answer(entry, "acme")

    for _ in range(3):
        assert receive({"reference": str(entry.pk), "status": "delivered"}).status_code == 200

    assert state(entry) == ("sent", "delivered", "charged")
    assert (entry.outcome, entry.error_code, entry.error_details) == (None, None, None)
    assert entry.sent_at is not None
    assert Posting.objects.filter(kind__in=["capture", "release"]).count() == 1


def test_a_receipt_takes_few_statements(sent, django_assert_num_queries):
    with django_assert_num_queries(
        8
    ):  # lock, attempts, change, whom to tell, keep; a savepoint is a transaction in life
        receive({"reference": str(sent.pk), "id": "p1", "status": "delivered"})
