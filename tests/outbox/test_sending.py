"""Accepting a message: priced, paid for and written down in one step, or not at all."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing.exceptions import NoPrice
from billing.models import Posting, Price
from outbox import idempotency, sending
from outbox.dispatch import Dispatcher
from outbox.exceptions import (
    IdempotencyKeyReused,
    MaxTotalCostExceeded,
    NotCancellable,
    NotPaid,
    TooManySegments,
)
from outbox.models import IdempotencyKey, Outbox
from tests.factories import PriceFactory, SenderIdFactory
from tests.threads import at_once

NUMBER = "+254711000099"


def send(user, text="Your code is 4321", recipient=NUMBER, **options):
    return sending.send(user, recipient=recipient, text=text, **options)


def money(account):
    account.refresh_from_db()
    return account.balance, account.held


def test_an_accepted_message_waits_with_its_money_held(account):
    entry = send(account.user, recipient="0711 000 099", text="x" * 161)

    entry = Outbox.objects.get(pk=entry.pk)
    assert (entry.recipient, entry.sender_id, entry.message_id) == (NUMBER, "MYBRAND", str(entry.pk))
    assert (entry.status, entry.charge_status, entry.outcome) == ("pending", "held", None)
    assert (entry.encoding, entry.segments, entry.price_per_segment, entry.total_cost) == ("GSM-7", 2, 1, 2)
    assert entry.due_at == entry.created_at
    assert entry.expires_at == entry.created_at + timedelta(days=1)
    assert money(account) == (Decimal(10), Decimal(2))
    assert [(line.kind, line.amount) for line in entry.postings()] == [("hold", 2)]


def test_the_price_is_frozen_at_acceptance(account):
    entry = send(account.user)
    PriceFactory(price_per_segment=7, prefix="254", effective_from=timezone.now())

    entry.refresh_from_db()
    assert entry.total_cost == 1
    assert send(account.user).total_cost == 7


def test_a_message_that_is_not_covered_is_logged_as_failed_and_costs_nothing(account):
    with pytest.raises(NotPaid) as refused:
        for _ in range(11):
            send(account.user)

    entry = Outbox.objects.latest("id")
    assert refused.value.entry == entry
    assert refused.value.members == {"required": Decimal(1), "available": Decimal(0), "currency": "KES"}
    assert (entry.status, entry.charge_status, entry.error_code) == ("failed", "none", "insufficient_balance")
    assert entry.due_at is None
    assert money(account) == (Decimal(10), Decimal(10))


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("recipient", {"recipient": "0900"}),
        ("recipient", {"recipient": "+254711000001,+254711000002"}),
        ("text", {"text": ""}),
        ("text", {"text": " \n\t"}),
        ("text", {"text": "\u200b\u2060\ufeff"}),
        ("text", {"text": "\u0301\u0301"}),
        ("text", {"text": "a\x00b"}),
        ("text", {"text": "a\x1bb"}),
        ("text", {"text": "a\ud800b"}),
        ("text", {"text": "a\ufffeb"}),
        ("sender_id", {"sender_id": ""}),
        ("sender_id", {"sender_id": "MORETHAN11CH"}),
        ("sender_id", {"sender_id": "12345"}),
        ("sender_id", {"sender_id": "+254711000001"}),
        ("sender_id", {"sender_id": "A\r\nB"}),
        ("sender_id", {"sender_id": "BRAND\n"}),
        ("sender_id", {"sender_id": " BRAND"}),
        ("sender_id", {"sender_id": "BR😀ND"}),
        ("message_id", {"message_id": ""}),
        ("message_id", {"message_id": "x" * 129}),
        ("message_id", {"message_id": "a\nb"}),
        ("message_name", {"message_name": "x" * 129}),
        ("tags", {"tags": ["x"] * 2}),
        ("tags", {"tags": [""]}),
        ("tags", {"tags": ["x" * 65]}),
        ("tags", {"tags": [str(number) for number in range(21)]}),
        ("custom_data", {"custom_data": {"a": "x" * 4096}}),
        ("custom_data", {"custom_data": {"a": {"b": {"c": {"d": {}}}}}}),
        ("custom_data", {"custom_data": {"k" * 129: 1}}),
        ("validity_minutes", {"validity_minutes": 0}),
        ("validity_minutes", {"validity_minutes": 10_081}),
        ("scheduled_at", {"scheduled_at": timezone.now() - timedelta(seconds=1)}),
        ("scheduled_at", {"scheduled_at": timezone.now() + timedelta(days=366)}),
    ],
)
def test_bad_input_is_refused_by_its_field_and_leaves_no_trace(account, provider, field, options):
    with pytest.raises(ValidationError) as refused:
        send(account.user, **options)

    assert list(refused.value.error_dict) == [field]
    assert not Outbox.objects.exists()
    assert money(account) == (Decimal(10), Decimal(0))
    assert provider.messages == []


@pytest.mark.parametrize("text", ["  padded  ", "two\nlines\r\n", "\tTab", "\u202eright to left", "{{7*7}} %s ${x}"])
def test_the_text_is_kept_to_the_letter(account, text):
    entry = send(account.user, text=text)

    assert Outbox.objects.get(pk=entry.pk).text == text


def test_the_users_own_number_may_be_the_sender_once_it_is_approved_and_not_be_sent_to(account):
    own = "+254711000000"
    SenderIdFactory(user=account.user, name=own)
    account.user.default_sender_id = own

    assert send(account.user).sender_id == own
    with pytest.raises(ValidationError) as refused:
        send(account.user, recipient="0711 000 000")
    assert [error.code for error in refused.value.error_dict["recipient"]] == ["own_number"]


def test_without_a_price_nothing_is_logged(account):
    Price.objects.all().delete()
    with pytest.raises(NoPrice):
        send(account.user)
    assert not Outbox.objects.exists()


def test_more_segments_or_money_than_allowed_are_refused(account, settings):
    with pytest.raises(MaxTotalCostExceeded):
        send(account.user, text="x" * 161, max_total_cost=Decimal("1.9"))
    settings.SMS_MAX_SEGMENTS = 1
    with pytest.raises(TooManySegments):
        send(account.user, text="x" * 161)
    assert not Outbox.objects.exists()

    assert send(account.user, max_total_cost=Decimal(1)).total_cost == 1


def test_a_scheduled_message_is_due_at_its_time_and_expires_after_it(account):
    at = timezone.now() + timedelta(hours=2)

    entry = send(account.user, scheduled_at=at, validity_minutes=5)

    assert (entry.due_at, entry.expires_at) == (at, at + timedelta(minutes=5))
    assert not Outbox.objects.due().exists()


def test_a_waiting_message_can_be_cancelled_and_its_money_is_given_back(account):
    entry = sending.cancel(send(account.user))

    assert (entry.status, entry.error_code, entry.charge_status) == ("failed", "cancelled", "released")
    assert money(account) == (Decimal(10), Decimal(0))
    with pytest.raises(NotCancellable):
        sending.cancel(entry)


# --- the same again ---------------------------------------------------------------------------------------------------


def keyed(user, body, key="k"):
    return idempotency.Request(user, idempotency.fingerprint("send", {"text": body}), key)


def test_the_same_key_and_request_finds_the_first_entry(account):
    first = send(account.user, request=keyed(account.user, "a"))

    with pytest.raises(idempotency.Repeated) as repeated:
        send(account.user, request=keyed(account.user, "a"))

    assert repeated.value.entry == first
    assert Outbox.objects.count() == 1
    assert money(account) == (Decimal(10), Decimal(1))


def test_the_same_key_for_another_request_is_refused(account):
    send(account.user, request=keyed(account.user, "a"))

    with pytest.raises(IdempotencyKeyReused):
        send(account.user, request=keyed(account.user, "b"))
    assert Outbox.objects.count() == 1


def test_a_repeated_message_id_does_the_same(account):
    first = send(account.user, message_id="order-1")

    with pytest.raises(idempotency.Repeated) as repeated:
        send(account.user, message_id="order-1")
    with pytest.raises(IdempotencyKeyReused):
        send(account.user, message_id="order-1", text="Another text")
    assert repeated.value.entry == first
    assert Outbox.objects.count() == 1


def test_a_refused_request_does_not_use_up_its_key(account):
    with pytest.raises(ValidationError):
        send(account.user, text="", request=keyed(account.user, "a"))

    assert send(account.user, request=keyed(account.user, "b")).status == "pending"


def test_keys_are_kept_for_a_day_and_more_and_then_forgotten_by_the_dispatcher(account, provider):
    first = send(account.user, request=keyed(account.user, "a"))
    kept = send(account.user, request=keyed(account.user, "a", key="young"))
    age = {"k": timedelta(hours=49), "young": timedelta(hours=24)}
    for key, hours in age.items():
        IdempotencyKey.objects.filter(key=key).update(created_at=timezone.now() - hours)

    Dispatcher(concurrency=1).run(once=True)

    with pytest.raises(idempotency.Repeated) as repeated:
        send(account.user, request=keyed(account.user, "a", key="young"))
    assert repeated.value.entry == kept
    assert send(account.user, request=keyed(account.user, "a")) != first
    assert Outbox.objects.count() == 3  # only the key is forgotten


@pytest.mark.django_db(transaction=True)
def test_of_forty_equal_requests_at_once_one_is_accepted_and_all_learn_of_it(account):
    results = at_once(40, lambda _: send(account.user, request=keyed(account.user, "a")))

    made = Outbox.objects.get()
    assert results.count(made) == 1
    assert {getattr(result, "entry", result) for result in results} == {made}
    assert Posting.objects.filter(kind="hold").count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_forty_equal_message_ids_at_once_one_is_accepted(account):
    results = at_once(40, lambda _: send(account.user, message_id="order-1"))

    made = Outbox.objects.get()
    assert {getattr(result, "entry", result) for result in results} == {made}
    assert money(account) == (Decimal(10), Decimal(1))


@pytest.mark.django_db(transaction=True)
def test_of_forty_sends_at_once_exactly_as_many_are_accepted_as_are_paid_for(account):
    results = at_once(40, lambda _: send(account.user))

    assert sum(isinstance(result, Outbox) for result in results) == 10
    assert sum(isinstance(result, NotPaid) for result in results) == 30
    assert Outbox.objects.filter(status="failed", charge_status="none").count() == 30
    assert money(account) == (Decimal(10), Decimal(10))
