"""What may be sent, how much of it, and to whom: each limit over HTTP, and exact when many come at once."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import OperationalError
from django.db.models import F
from django.test import Client
from django.urls import reverse

from billing import ledger
from billing.models import Posting
from outbox import checks, idempotency, limits, sending
from outbox.dispatch import Dispatcher
from outbox.exceptions import DuplicateMessage, RecipientNotAllowed
from outbox.models import OptOut, Outbox
from smsportal.exceptions import RateLimited
from smsportal.models import Bucket, Notice
from tests.factories import UserFactory
from tests.threads import at_once

SEND, RESEND, QUOTE = "/api/sms/send", "/api/sms/outbox/resend", "/api/sms/quote"
NUMBER, OTHER = "+254711000001", "+254722000002"


def body(recipient=NUMBER, **more):
    return {"recipientPhoneNumber": recipient, "message": "Hello", **more}


def send(user, recipient=NUMBER, text="Hello", **options):
    return sending.send(user, recipient=recipient, text=text, **options)


def fail(entry):
    """Leave it as a provider's refusal does, with its money given back."""
    sending.cancel(entry)


def let_pass(seconds):
    Bucket.objects.update(used_until=F("used_until") - timedelta(seconds=seconds))
    Outbox.objects.update(created_at=F("created_at") - timedelta(seconds=seconds))


def refusal(response):
    """Which limit refused, and for how long, from a 429 that says it in body and header alike."""
    problem = json.loads(response.content)
    assert (response.status_code, problem["code"]) == (429, "rate_limited")
    assert response["Content-Type"] == "application/problem+json"
    assert response["Retry-After"] == str(problem["retryAfter"])
    assert problem["retryAfter"] >= 1
    return problem["limit"], problem["retryAfter"]


@pytest.fixture
def rich(account):
    ledger.top_up(account, Decimal(1000), reason="for many messages")
    return account


# --- each limit over HTTP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "most", "message", "limit", "wait_s"),
    [
        ("SMS_KEY_RATE_LIMIT_PER_MINUTE", 2, {}, "perKey", range(25, 31)),
        ("SMS_RATE_LIMIT_PER_MINUTE", 3, {}, "perUser", range(15, 21)),
        ("SMS_RECIPIENT_LIMIT_PER_MINUTE", 2, {}, "perRecipient", range(25, 31)),
        ("SMS_RECIPIENT_LIMIT_PER_HOUR", 2, {}, "perRecipient", range(1790, 1801)),
        ("SMS_PREFIX_LIMIT_PER_MINUTE", 2, {}, "perPrefix", range(25, 31)),
        ("SMS_OTP_COOL_DOWN_S", 30, {"tags": ["otp"]}, "otpCoolDown", range(25, 31)),
    ],
)
def test_each_limit_refuses_with_its_name_and_when_to_come_back(
    api, rich, settings, provider, setting, most, message, limit, wait_s
):
    setattr(settings, setting, most)
    allowed = 1 if limit == "otpCoolDown" else most

    answers = [api.post(SEND, body(**message)) for _ in range(allowed + 1)]

    assert [answer.status_code for answer in answers[:-1]] == [201] * allowed
    refused_by, told_s = refusal(answers[-1])
    assert refused_by == limit
    assert told_s in wait_s
    assert (Outbox.objects.count(), Posting.objects.filter(kind="hold").count()) == (allowed, allowed)
    let_pass(wait_s[-1])
    assert api.post(SEND, body(**message)).status_code == 201


def test_each_key_has_its_own_places_and_all_of_a_users_keys_share_theirs(rich, client_of, settings):
    settings.SMS_KEY_RATE_LIMIT_PER_MINUTE, settings.SMS_RATE_LIMIT_PER_MINUTE = 2, 3
    one, other = client_of(rich.user), client_of(rich.user)

    assert [one.post(SEND, body()).status_code for _ in range(3)] == [201, 201, 429]
    assert [other.post(SEND, body()).status_code for _ in range(2)] == [201, 429]


def test_a_user_may_have_a_limit_of_their_own_or_none(rich, settings):
    settings.SMS_RATE_LIMIT_PER_MINUTE = 2
    rich.user.rate_limit_per_minute = 1
    send(rich.user)
    with pytest.raises(RateLimited):
        send(rich.user)

    rich.user.rate_limit_per_minute = 0
    for _ in range(5):
        send(rich.user)


def test_one_users_messages_take_no_place_of_anothers(rich, client_of, settings):
    settings.SMS_RATE_LIMIT_PER_MINUTE = settings.SMS_RECIPIENT_LIMIT_PER_MINUTE = 1
    bo = ledger.account_of(UserFactory())
    ledger.top_up(bo, Decimal(10), reason="x")

    assert client_of(rich.user).post(SEND, body()).status_code == 201
    assert client_of(bo.user).post(SEND, body()).status_code == 201


def test_numbers_in_a_row_share_their_places_and_the_staff_are_told_once(api, rich, settings):
    settings.SMS_PREFIX_LIMIT_PER_MINUTE = 5

    answers = [api.post(SEND, body(f"+25471100{number:04}")) for number in range(500, 510)]

    assert [answer.status_code for answer in answers] == [201] * 5 + [429] * 5
    assert refusal(answers[-1])[0] == "perPrefix"
    assert api.post(SEND, body(OTHER)).status_code == 201
    assert Notice.objects.get().text.startswith("amina sends to many numbers in a row")
    Notice.objects.update(created_at=F("created_at") - timedelta(days=2))
    Dispatcher(concurrency=1).run(once=True)
    assert Notice.objects.get().ended_at is not None


def test_a_one_time_password_waits_for_the_one_before_it_and_nothing_else_does(api, rich, settings):
    settings.SMS_OTP_COOL_DOWN_S = 30
    otp = {"tags": ["OTP"]}

    assert api.post(SEND, body(**otp)).status_code == 201
    assert refusal(api.post(SEND, body(**otp)))[0] == "otpCoolDown"
    assert api.post(SEND, body()).status_code == 201
    assert api.post(SEND, body(OTHER, **otp)).status_code == 201


def test_five_hundred_messages_to_one_number_in_a_minute_end_at_its_limit(api, rich, settings):
    settings.SMS_RECIPIENT_LIMIT_PER_HOUR = 10

    answers = [api.post(SEND, body()) for _ in range(500)]

    assert [answer.status_code for answer in answers] == [201] * 10 + [429] * 490
    assert Outbox.objects.count() == 10


def test_without_a_word_in_the_settings_hundreds_go_to_one_number(api, rich):
    assert {api.post(SEND, body(tags=["OTP"])).status_code for _ in range(200)} == {201}


def test_the_page_says_it_as_an_error_of_its_form(rich, settings):
    settings.SMS_RATE_LIMIT_PER_MINUTE = 1
    send(rich.user)
    site = Client()
    site.force_login(rich.user)

    page = site.get("/outbox/new/").content.decode()
    once = page.split('name="once" value="')[1].split('"')[0]
    answer = site.post("/outbox/new/", {"recipient": NUMBER, "text": "Hello", "once": once}).content.decode()

    assert "At most 1 messages a minute. Try again in" in answer
    assert Outbox.objects.count() == 1


# --- what counts ------------------------------------------------------------------------------------------------------


def test_a_repeated_request_takes_no_place(api, rich, settings):
    settings.SMS_RATE_LIMIT_PER_MINUTE = 1
    once = {"Idempotency-Key": "k"}

    assert api.post(SEND, body(), headers=once).status_code == 201
    assert [api.post(SEND, body(), headers=once).status_code for _ in range(5)] == [200] * 5
    assert api.post(SEND, body(), headers={"Idempotency-Key": "other"}).status_code == 429


def test_a_request_that_is_refused_for_what_it_says_takes_no_place(api, rich, settings):
    settings.SMS_RATE_LIMIT_PER_MINUTE = 1

    assert {api.post(SEND, body("0900")).status_code, api.post(QUOTE, body()).status_code} == {400, 200}
    assert api.post(SEND, body()).status_code == 201


def test_a_message_that_is_not_paid_for_takes_its_place(account, settings):
    settings.SMS_RATE_LIMIT_PER_MINUTE = 1
    ledger.adjust(account, Decimal(-10), reason="empty")

    with pytest.raises(sending.NotPaid):
        send(account.user)
    with pytest.raises(RateLimited):
        send(account.user)
    assert Outbox.objects.count() == 1


def test_a_resend_takes_a_place_and_changes_nothing_when_there_is_none(api, rich, settings):
    entry = send(rich.user, tags=["OTP"])
    fail(entry)
    settings.SMS_OTP_COOL_DOWN_S = 30

    assert api.post(RESEND, {"outboxId": str(entry.pk)}).status_code == 200
    fail(entry)
    assert refusal(api.post(RESEND, {"outboxId": str(entry.pk)}))[0] == "otpCoolDown"
    entry.refresh_from_db()
    assert (entry.status, entry.retry_count) == ("failed", 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "setting",
    ["SMS_RATE_LIMIT_PER_MINUTE", "SMS_KEY_RATE_LIMIT_PER_MINUTE", "SMS_RECIPIENT_LIMIT_PER_HOUR"],
)
def test_of_forty_messages_at_once_exactly_as_many_are_accepted_as_the_limit_says(rich, client_of, settings, setting):
    settings.SMS_RATE_LIMIT_PER_MINUTE = 0
    setattr(settings, setting, 4)  # the fifth place comes after 15 s
    client = client_of(rich.user)

    answers = at_once(40, lambda number: client.post(SEND, body()).status_code)

    assert (answers.count(201), answers.count(429)) == (4, 36)
    assert (Outbox.objects.count(), Posting.objects.filter(kind="hold").count()) == (4, 4)


@pytest.mark.django_db(transaction=True)
def test_of_forty_equal_requests_at_once_those_that_are_refused_learn_of_the_first_when_they_ask_again(rich, settings):
    settings.SMS_OTP_COOL_DOWN_S = 3600
    request = idempotency.Request(rich.user, idempotency.fingerprint("send", {}), "k")

    def ask(_=0):
        return send(rich.user, tags=["OTP"], request=request)

    results = at_once(40, ask)

    made = Outbox.objects.get()
    assert results.count(made) == 1
    assert all(getattr(result, "entry", made) == made for result in results)
    with pytest.raises(idempotency.Repeated) as repeated:
        ask()
    assert repeated.value.entry == made


# --- what an account spends in a day ----------------------------------------------------------------------------------


def test_what_an_account_spends_in_a_day_ends_at_its_limit_until_midnight(api, rich):
    rich.daily_spend_limit = Decimal(2)
    rich.save(update_fields=["daily_spend_limit"])

    answers = [api.post(SEND, body()) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201, 201, 429]
    limit, wait_s = refusal(answers[-1])
    assert limit == "dailySpend"
    assert wait_s <= 86_400
    assert Outbox.objects.count() == 2  # a message that is refused is not logged as failed
    type(rich).objects.update(spent_on=F("spent_on") - timedelta(days=1))
    assert api.post(SEND, body()).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_of_forty_messages_at_once_exactly_as_many_are_accepted_as_the_day_allows(rich):
    rich.daily_spend_limit = Decimal("10.5")
    rich.save(update_fields=["daily_spend_limit"])

    results = at_once(40, lambda _: send(rich.user))

    assert sum(isinstance(result, Outbox) for result in results) == 10
    assert sum(isinstance(result, RateLimited) for result in results) == 30
    rich.refresh_from_db()
    assert (rich.spent_today, rich.held, Outbox.objects.count()) == (10, 10, 10)


# --- the same text to the same number ---------------------------------------------------------------------------------


def test_the_same_text_to_the_same_number_is_refused_for_a_while_where_the_operator_says_so(api, rich, settings):
    settings.SMS_DUPLICATE_GUARD, settings.SMS_DUPLICATE_WINDOW_S = "refuse", 60
    first = api.post(SEND, body()).json()["outboxId"]

    again = api.post(SEND, body())

    problem = json.loads(again.content)
    assert (again.status_code, problem["code"], problem["duplicateOf"]) == (409, "duplicate_message", first)
    assert again["Retry-After"] == str(problem["retryAfter"])
    assert api.post(SEND, body(message="Hello!")).status_code == 201
    assert api.post(SEND, body(OTHER)).status_code == 201
    assert Outbox.objects.count() == 3
    let_pass(60)
    assert api.post(SEND, body()).status_code == 201


def test_a_failed_message_is_sent_again_under_the_guard(rich, settings):
    settings.SMS_DUPLICATE_GUARD = "refuse"
    entry = send(rich.user)
    fail(entry)

    assert sending.resend(entry).status == "pending"


def test_the_same_text_to_the_same_number_is_sent_with_a_warning_where_the_operator_says_so(api, rich, settings):
    settings.SMS_DUPLICATE_GUARD = "warn"
    first = api.post(SEND, body())
    again = api.post(SEND, body())

    assert "X-Duplicate-Of" not in first
    assert (again.status_code, again["X-Duplicate-Of"]) == (201, first.json()["outboxId"])
    assert "X-Duplicate-Of" not in api.post(SEND, body(message="Hello!"))
    let_pass(60)
    assert "X-Duplicate-Of" not in api.post(SEND, body())


@pytest.mark.django_db(transaction=True)
def test_of_forty_equal_texts_at_once_one_is_accepted_under_the_guard(rich, settings):
    settings.SMS_DUPLICATE_GUARD = "refuse"

    results = at_once(40, lambda _: send(rich.user))

    assert sum(isinstance(result, Outbox) for result in results) == 1
    assert sum(isinstance(result, DuplicateMessage) for result in results) == 39
    assert Outbox.objects.count() == 1


# --- who may be sent to -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destinations", "recipient", "allowed"),
    [
        ([], "+254711000001", True),
        (["KE"], "+254711000001", True),
        (["UG", "KE"], "+254711000001", True),
        (["UG"], "+254711000001", False),
        (["+254"], "+254711000001", True),
        (["+25472"], "+254711000001", False),
        (["US"], "+14155552671", True),
        (["US"], "+16045552671", False),  # Canada has the same country code
        (["+1"], "+16045552671", True),
    ],
)
def test_an_account_sends_to_its_countries_and_prefixes_only(api, rich, destinations, recipient, allowed):
    rich.allowed_destinations = destinations
    rich.save(update_fields=["allowed_destinations"])

    answers = [api.post(address, body(recipient)) for address in (SEND, QUOTE)]

    assert [answer.status_code for answer in answers] == ([201, 200] if allowed else [403, 403])
    assert allowed or {json.loads(answer.content)["code"] for answer in answers} == {"recipient_not_allowed"}
    assert Outbox.objects.count() == allowed


@pytest.mark.parametrize("of_all", [True, False])
def test_a_number_that_wants_no_messages_is_not_sent_to_nor_sent_to_again(api, rich, client_of, of_all):
    entry = send(rich.user)
    fail(entry)
    OptOut.objects.create(number=NUMBER, user=None if of_all else rich.user, reason="STOP")
    bo = ledger.account_of(UserFactory())
    ledger.top_up(bo, Decimal(10), reason="x")

    answers = [api.post(SEND, body("0711 000 001")), api.post(RESEND, {"outboxId": str(entry.pk)})]

    assert [answer.status_code for answer in answers] == [403, 403]
    assert {json.loads(answer.content)["code"] for answer in answers} == {"recipient_not_allowed"}
    assert api.post(SEND, body(OTHER)).status_code == 201
    assert client_of(bo.user).post(SEND, body()).status_code == (403 if of_all else 201)
    entry.refresh_from_db()
    assert (entry.status, entry.retry_count) == ("failed", 0)


def test_a_country_that_is_closed_after_a_failure_is_not_sent_to_again(rich):
    entry = send(rich.user)
    fail(entry)
    type(rich).objects.update(allowed_destinations=["UG"])

    with pytest.raises(RecipientNotAllowed):
        sending.resend(entry)


# --- the staff --------------------------------------------------------------------------------------------------------


def test_staff_keep_the_opt_outs(admin_site, superuser):
    add = reverse("admin:outbox_optout_add")
    admin_site.post(add, {"number": "0711 000 001", "reason": "STOP by letter"})
    wrong = admin_site.post(add, {"number": "0900", "reason": "x"}).content.decode()
    again = admin_site.post(add, {"number": NUMBER, "reason": "x"}).content.decode()

    kept = OptOut.objects.get()
    assert (kept.number, kept.user, kept.created_by) == (NUMBER, None, superuser)
    assert "too short" in wrong
    assert "errornote" in again


# --- the settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [("SMS_DUPLICATE_GUARD", "on"), ("SMS_DUPLICATE_WINDOW_S", 0), *((name, -1) for name in checks.LIMITS)],
)
def test_check_names_a_limit_that_makes_no_sense(settings, setting, value):
    setattr(settings, setting, value)

    with pytest.raises(SystemCheckError, match=setting):
        call_command("check")


def test_nothing_is_left_in_the_table_of_limits_that_does_nothing(rich):
    send(rich.user)
    assert Bucket.objects.count() == 1
    let_pass(3600)

    limits.purge()

    assert not Bucket.objects.exists()


def test_a_message_that_is_not_accepted_after_all_gives_its_places_back(account, provider, settings, monkeypatch):
    settings.SMS_DUPLICATE_GUARD, settings.SMS_OTP_COOL_DOWN_S = "refuse", 60
    message = {"recipient": "+254711000001", "text": "Your code is 4321", "tags": ["OTP"]}

    def away(*args, **kwargs):
        raise OperationalError("the account is locked")

    with monkeypatch.context() as trouble, pytest.raises(OperationalError):
        trouble.setattr(ledger, "hold", away)
        sending.send(account.user, **message)

    assert sending.send(account.user, **message).status == "pending"
    with pytest.raises((DuplicateMessage, RateLimited)):
        sending.send(account.user, **message)
