"""The price in force: longest prefix, the user's own before the general, the newest that has begun."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from billing import pricing
from billing.exceptions import NoPrice
from billing.models import Price
from tests.factories import PriceFactory, UserFactory


def price_of(user, recipient="+254711000001"):
    return pricing.price_for(user, recipient, "KES")[0].price_per_segment


def test_the_longest_matching_prefix_wins(user):
    for prefix, price in {"": 9, "2": 8, "254": 3, "25471": 2, "25472": 1}.items():
        PriceFactory(prefix=prefix, price_per_segment=price)

    assert price_of(user) == 2
    assert price_of(user, "+254733000001") == 3
    assert price_of(user, "+447400123456") == 9


def test_the_users_own_price_goes_before_the_general_one_of_the_same_prefix(user):
    PriceFactory(prefix="254", price_per_segment=3)
    PriceFactory(prefix="254", price_per_segment=2, user=user)
    PriceFactory(prefix="254", price_per_segment=1, user=UserFactory())

    assert price_of(user) == 2


def test_the_newest_price_that_has_begun_is_in_force(user):
    now = timezone.now()
    for days, price in {-9: 3, -1: 2, +1: 1}.items():
        PriceFactory(price_per_segment=price, effective_from=now + timedelta(days=days))

    assert price_of(user) == 2


def test_without_a_price_in_the_accounts_currency_there_is_none(user):
    PriceFactory(currency="USD")
    PriceFactory(prefix="44")

    with pytest.raises(NoPrice):
        price_of(user)


@pytest.mark.parametrize("price", [Decimal(0), Decimal("-0.5"), Decimal("1000000.0001")])
def test_the_database_refuses_a_price_that_cannot_be_meant(db, price):
    with pytest.raises(IntegrityError), transaction.atomic():
        PriceFactory(price_per_segment=price)


def test_two_general_prices_of_one_moment_are_refused(db):
    price = PriceFactory()

    with pytest.raises(IntegrityError), transaction.atomic():
        PriceFactory(effective_from=price.effective_from)
    assert Price.objects.count() == 1


@pytest.mark.parametrize(("typed", "kept"), [("default", ""), ("", ""), ("+254", "254"), ("254", "254")])
def test_a_prefix_is_kept_as_its_digits(typed, kept):
    assert pricing.prefix_of(typed) == kept


@pytest.mark.parametrize("typed", ["+", "0", "abc", "+25 4", "٢٥٤", "1" * 16, "254\n"])
def test_what_is_no_prefix_is_refused(typed):
    with pytest.raises(ValueError):
        pricing.prefix_of(typed)
