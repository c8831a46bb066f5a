"""What staff type: money, prices and keys, each refused with a reason or done as said."""

import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from billing import ledger
from billing.models import Price
from smsportal.models import ApiKey


def run(*words):
    out = io.StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def test_top_up_adds_money_and_prints_the_new_balance(account):
    assert run("top_up", "amina", "2.50", "--reason", "cash") == "12.5 KES\n"

    assert ledger.account_of(account.user).balance == Decimal("12.5")
    assert account.postings.latest("id").reason == "cash"


@pytest.mark.parametrize("amount", ["9999999999", "0", "-1", "x", "NaN", "Infinity", "1.00001", "10000000000"])
def test_top_up_refuses_what_is_no_payment(account, amount):
    with pytest.raises(CommandError):
        run("top_up", "--reason", "cash", "--", "amina", amount)

    assert account.postings.count() == 1


def test_a_user_who_is_not_there_is_named(db):
    with pytest.raises(CommandError, match="nobody"):
        run("top_up", "nobody", "1", "--reason", "cash")


def test_set_price_adds_a_dated_price(user):
    run("set_price", "default", "2.5", "--reason", "list")
    run("set_price", "+254", "0.8", "--user", "amina", "--from", "2030-01-01T00:00:00+03:00", "--reason", "deal")

    general, own = Price.objects.order_by("id")
    assert (general.prefix, general.user, general.currency) == ("", None, "KES")
    assert (own.prefix, own.user, own.price_per_segment) == ("254", user, Decimal("0.8"))
    assert own.effective_from == datetime(2029, 12, 31, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    "words",
    [
        ["abc", "1"],
        ["+0", "1"],
        ["default", "0"],
        ["default", "-1"],
        ["default", "0.00001"],
        ["default", "2000000"],
        ["default", "1", "--from", "2030-01-01"],
        ["default", "1", "--from", "2030-01-01T00:00:00"],
        ["default", "1", "--user", "nobody"],
    ],
)
def test_set_price_refuses_what_cannot_be_meant(db, words):
    with pytest.raises(CommandError):
        run("set_price", "--reason", "x", *(["--"] if "-1" in words else []), *words)

    assert not Price.objects.exists()


def test_create_api_key_prints_the_key_once(user):
    secret = run("create_api_key", "amina", "--name", "shop", "--act-for-others").strip()

    key = ApiKey.objects.get()
    assert key.digest == ApiKey.digest_of(secret)
    assert (key.user, key.name, key.may_act_for_others) == (user, "shop", True)
