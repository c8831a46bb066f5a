"""A limit lets exactly as many through as it says, however many come at once."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import F
from rest_framework.test import APIClient

from smsportal import rates
from smsportal.exceptions import RateLimited
from smsportal.models import ApiKey, Bucket
from smsportal.rates import Limit
from tests.factories import UserFactory
from tests.threads import at_once

LIST = "/api/sms/outbox"


def ten_an_hour(about, places=10, name="perUser"):
    return Limit(name, about, places, 3600, "At most 10 an hour.")


def let_pass(seconds):
    """As if so much time had gone by."""
    Bucket.objects.update(used_until=F("used_until") - timedelta(seconds=seconds))


def taken(*limits):
    """How many places can be taken one after the other."""
    for count in range(100):
        try:
            rates.take(limits)
        except RateLimited:
            return count
    return 100


def test_a_limit_lets_its_number_through_at_once_then_one_by_one(db):
    assert taken(ten_an_hour("a")) == 10

    let_pass(361)
    assert taken(ten_an_hour("a")) == 1
    let_pass(2 * 361)
    assert taken(ten_an_hour("a")) == 2
    let_pass(36_000)
    assert taken(ten_an_hour("a")) == 10


def test_who_is_refused_learns_which_limit_it_was_and_when_there_is_a_place(db):
    rates.take([Limit("otpCoolDown", "a", 1, 30, "A pause of 30 s.")])

    with pytest.raises(RateLimited) as refused:
        rates.take([ten_an_hour("a"), Limit("otpCoolDown", "a", 1, 30, "A pause of 30 s.")])

    assert refused.value.code == "rate_limited"
    assert refused.value.members == {"limit": "otpCoolDown", "retryAfter": 30}
    assert refused.value.message == "A pause of 30 s. Try again in 30 seconds."
    let_pass(30)
    rates.take([Limit("otpCoolDown", "a", 1, 30, "A pause of 30 s.")])


def test_to_be_told_to_wait_less_than_a_second_is_to_be_told_one(db):
    rates.take([Limit("perUser", "a", 1, 0.5, "Two a second.")])

    with pytest.raises(RateLimited) as refused:
        rates.take([Limit("perUser", "a", 1, 0.5, "Two a second.")])
    assert refused.value.retry_after_s == 1


def test_a_refusal_takes_no_place_anywhere(db):
    full, other = ten_an_hour("a", places=1), ten_an_hour("b")
    rates.take([full])

    for _ in range(20):
        with pytest.raises(RateLimited):
            rates.take([other, full])

    assert taken(other) == 10


def test_limits_of_different_names_or_subjects_do_not_share_their_places(db):
    assert [taken(ten_an_hour("a")), taken(ten_an_hour("b")), taken(ten_an_hour("a", name="perKey"))] == [10, 10, 10]


def test_a_limit_that_was_raised_or_lowered_holds_at_once(db):
    assert taken(ten_an_hour("a")) == 10
    let_pass(181)
    assert taken(ten_an_hour("a", places=20)) == 1
    let_pass(361)
    assert taken(ten_an_hour("a", places=5)) == 0


def test_what_is_limited_cannot_be_read_in_the_table(db):
    rates.take([ten_an_hour("+254711000001")])

    assert "254711000001" not in str(Bucket.objects.values_list()[0])


def test_a_bucket_is_forgotten_when_all_its_places_are_free_again_and_not_before(db):
    rates.take([ten_an_hour("a")])
    assert rates.purge() == 0
    let_pass(361)
    assert rates.purge() == 1


@pytest.mark.django_db(transaction=True)
def test_a_bucket_that_somebody_takes_from_at_this_moment_is_passed_over():
    for about in ("a", "b"):
        rates.take([ten_an_hour(about)])
    let_pass(361)

    with transaction.atomic():
        Bucket.objects.select_for_update().get(key=ten_an_hour("a").bucket)
        assert at_once(1, lambda _: rates.purge()) == [1]

    assert Bucket.objects.get().key == ten_an_hour("a").bucket


@pytest.mark.django_db(transaction=True)
def test_of_forty_at_once_exactly_as_many_get_through_as_there_are_places():
    """The throttle of Django REST framework let 117 through a limit of 10."""
    for round_ in range(5):
        results = at_once(40, lambda _, about=str(round_): rates.take([ten_an_hour(about)]))

        assert results.count(None) == 10
        assert sum(isinstance(result, RateLimited) for result in results) == 30


@pytest.mark.django_db(transaction=True)
def test_many_limits_taken_at_once_in_any_order_deadlock_nobody_and_are_taken_together_or_not_at_all():
    limits = [ten_an_hour(about, places) for about, places in (("a", 10), ("b", 20), ("c", 30), ("d", 40))]

    results = at_once(40, lambda number: rates.take(limits[number % 4 :] + limits[: number % 4]))

    assert results.count(None) == 10
    assert sum(isinstance(result, RateLimited) for result in results) == 30
    assert [taken(limit) for limit in limits] == [0, 10, 20, 30]


# --- wrong keys -------------------------------------------------------------------------------------------------------


def ask(secret, address="192.0.2.1"):
    return APIClient().get(LIST, HTTP_AUTHORIZATION=f"Bearer {secret}", REMOTE_ADDR=address)


def test_of_many_wrong_keys_from_one_address_a_hundred_a_minute_are_answered(db, settings):
    settings.BAD_KEYS_PER_MINUTE = 100

    answers = [ask(f"wrong{number}") for number in range(300)]

    refused = next(answer for answer in answers if answer.status_code == 429)
    problem = refused.json()
    assert [answer.status_code for answer in answers[:100]] == [401] * 100
    assert sum(answer.status_code == 401 for answer in answers) <= 150  # a place becomes free every 0.6 s
    assert (problem["code"], problem["limit"]) == ("rate_limited", "perAddress")
    assert refused["Retry-After"] == str(problem["retryAfter"]) == "1"
    assert refused["Content-Type"] == "application/problem+json"


def test_a_good_key_is_let_in_from_an_address_that_tries_wrong_ones(db, settings):
    settings.BAD_KEYS_PER_MINUTE = 1
    _, secret = ApiKey.issue(UserFactory(), "shop")

    assert [ask("wrong").status_code for _ in range(2)] == [401, 429]
    assert ask(secret).status_code == 200
    assert ask("wrong", "192.0.2.2").status_code == 401


def test_all_addresses_of_one_ipv6_network_count_as_one(db, settings):
    settings.BAD_KEYS_PER_MINUTE = 1

    addresses = ["2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1", ""]
    assert [ask("wrong", address).status_code for address in addresses] == [401, 429, 401, 401]
