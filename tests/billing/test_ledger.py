"""Money moves once, by lines that nobody can change, and never below what there is."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from billing import ledger
from billing.exceptions import AlreadySettled, DailySpendReached, InsufficientBalance
from billing.models import Account, Posting
from tests.threads import at_once


def state(account):
    account.refresh_from_db()
    return account.balance, account.held


def test_a_hold_sets_money_aside_without_taking_it(account):
    ledger.hold(account, Decimal("2.5"), "m/0")

    assert state(account) == (Decimal(10), Decimal("2.5"))
    assert account.available() == Decimal("7.5")


def test_a_captured_hold_is_taken_and_a_released_one_given_back(account):
    ledger.hold(account, Decimal(3), "taken/0")
    ledger.hold(account, Decimal(4), "given-back/0")

    ledger.capture("taken/0")
    ledger.release("given-back/0")

    assert state(account) == (Decimal(7), Decimal(0))


def test_every_line_says_what_the_account_stood_at_after_it(account):
    ledger.hold(account, Decimal(3), "a/0")
    ledger.hold(account, Decimal(4), "b/0")
    ledger.settle(captured=["a/0"], released=["b/0"])

    lines = account.postings.order_by("id").values_list("kind", "balance_after", "held_after")
    assert list(lines) == [
        ("top_up", 10, 0),
        ("hold", 10, 3),
        ("hold", 10, 7),
        ("capture", 7, 4),
        ("release", 7, 0),
    ]


@pytest.mark.parametrize("second", [ledger.capture, ledger.release])
@pytest.mark.parametrize("first", [ledger.capture, ledger.release])
def test_a_hold_ends_only_once(account, first, second):
    ledger.hold(account, Decimal(3), "m/0")
    first("m/0")
    before = state(account)

    with pytest.raises(AlreadySettled):
        second("m/0")

    assert state(account) == before


def test_a_cause_holds_money_only_once(account):
    ledger.hold(account, Decimal(3), "m/0")

    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.hold(account, Decimal(3), "m/0")

    assert state(account) == (Decimal(10), Decimal(3))


def test_the_last_cent_can_be_spent_and_not_one_more(account):
    with pytest.raises(InsufficientBalance) as refused:
        ledger.hold(account, Decimal("10.0001"), "too-much/0")
    ledger.hold(account, Decimal(10), "all/0")

    assert refused.value.members == {"required": Decimal("10.0001"), "available": Decimal(10), "currency": "KES"}
    assert account.available() == Decimal(10)
    assert state(account) == (Decimal(10), Decimal(10))


def test_credit_can_be_spent_too(account):
    account.credit_limit = Decimal(5)
    account.save(update_fields=["credit_limit"])

    ledger.hold(account, Decimal(15), "m/0")

    with pytest.raises(InsufficientBalance):
        ledger.hold(account, Decimal("0.0001"), "n/0")


def test_what_is_held_in_a_day_ends_at_the_accounts_limit_for_it(account):
    Account.objects.update(daily_spend_limit=5)
    ledger.hold(account, Decimal(5), "exactly/0")

    with pytest.raises(DailySpendReached) as refused:
        ledger.hold(account, Decimal("0.0001"), "more/0")

    assert refused.value.limit == "dailySpend"
    assert 0 < refused.value.retry_after_s <= 86_400
    assert state(account) == (Decimal(10), Decimal(5))


def test_what_is_given_back_or_taken_stays_counted_for_its_day_and_no_other_money_is(account):
    Account.objects.update(daily_spend_limit=5)
    ledger.hold(account, Decimal(2), "a/0")
    ledger.hold(account, Decimal(2), "b/0")
    ledger.settle(captured=["a/0"], released=["b/0"])
    ledger.top_up(account, Decimal(10), reason="more")
    ledger.adjust(account, Decimal(-7), reason="less")

    account.refresh_from_db()
    assert account.spent_today == 4
    with pytest.raises(DailySpendReached):
        ledger.hold(account, Decimal(2), "c/0")


def test_a_new_day_begins_with_nothing_spent_and_no_day_comes_again(account):
    Account.objects.update(daily_spend_limit=5)
    ledger.hold(account, Decimal(5), "a/0")

    Account.objects.update(spent_on=F("spent_on") - timedelta(days=1))
    ledger.hold(account, Decimal(1), "b/0")
    account.refresh_from_db()
    assert (account.spent_on, account.spent_today) == (datetime.now(UTC).date(), 1)

    Account.objects.update(spent_on=F("spent_on") + timedelta(days=1))  # who waited for the row over midnight
    ledger.hold(account, Decimal(4), "c/0")
    with pytest.raises(DailySpendReached):
        ledger.hold(account, Decimal(1), "d/0")


def test_without_enough_money_it_is_the_money_that_is_missing_unless_the_day_is_over_too(account):
    Account.objects.update(daily_spend_limit=20)
    with pytest.raises(InsufficientBalance):
        ledger.hold(account, Decimal(11), "a/0")

    Account.objects.update(daily_spend_limit=0)
    with pytest.raises(DailySpendReached):
        ledger.hold(account, Decimal(11), "b/0")


def test_an_adjustment_takes_no_more_than_is_available(account):
    ledger.hold(account, Decimal(8), "m/0")
    with pytest.raises(InsufficientBalance):
        ledger.adjust(account, Decimal("-2.5"), reason="correction")

    ledger.adjust(account, Decimal(-2), reason="correction")

    assert state(account) == (Decimal(8), Decimal(8))


@pytest.mark.parametrize("amount", [Decimal(0), Decimal(-1)])
def test_a_top_up_is_more_than_nothing(account, amount):
    with pytest.raises(ValueError):
        ledger.top_up(account, amount, reason="nothing")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_posting SET amount = amount + 1",
        "UPDATE billing_posting SET reason = 'better'",
        "DELETE FROM billing_posting",
        "TRUNCATE billing_posting CASCADE",
    ],
)
def test_the_database_refuses_to_change_the_ledger(account, change):
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(change)

    assert Posting.objects.get().amount == Decimal(10)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing_account SET balance = -0.0001",
        "UPDATE billing_account SET held = balance + 0.0001",
        "UPDATE billing_account SET held = -1",
    ],
)
def test_the_database_refuses_an_account_below_its_limit(account, change):
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(change)


@pytest.mark.django_db(transaction=True)
def test_forty_spenders_at_once_never_overdraw(account):
    results = at_once(40, lambda number: ledger.hold(account, Decimal(1), f"m{number}/0"))

    assert sum(isinstance(result, Posting) for result in results) == 10
    assert sum(isinstance(result, InsufficientBalance) for result in results) == 30
    assert state(account) == (Decimal(10), Decimal(10))


@pytest.mark.django_db(transaction=True)
def test_forty_spenders_at_once_never_pass_the_limit_for_a_day(account):
    Account.objects.update(daily_spend_limit=7)

    results = at_once(40, lambda number: ledger.hold(account, Decimal(1), f"{number}/0"))

    assert sum(isinstance(result, Posting) for result in results) == 7
    assert sum(isinstance(result, DailySpendReached) for result in results) == 33
    account.refresh_from_db()
    assert (account.spent_today, account.held) == (7, 7)


@pytest.mark.django_db(transaction=True)
def test_of_many_who_settle_one_hold_exactly_one_wins(account):
    ledger.hold(account, Decimal(4), "m/0")

    results = at_once(20, lambda number: (ledger.capture if number % 2 else ledger.release)("m/0"))

    assert results.count(None) == 1
    assert all(isinstance(result, AlreadySettled) for result in results if result is not None)
    ending = Posting.objects.get(settles__isnull=False)
    assert state(account) == (Decimal(6 if ending.kind == "capture" else 10), Decimal(0))


@pytest.mark.django_db(transaction=True)
def test_settling_many_accounts_at_once_does_not_deadlock(account):
    from tests.factories import UserFactory

    accounts = [ledger.account_of(UserFactory()) for _ in range(4)]
    for owner in accounts:
        ledger.top_up(owner, Decimal(100), reason="x")
    for hold in range(12):  # their holds were made in opposite orders
        for number in range(4) if hold % 2 else (3, 2, 1, 0):
            ledger.hold(accounts[number], Decimal(1), f"{number}-{hold}/0")

    def settle(hold):
        for _ in range(20):
            with transaction.atomic():
                ledger.settle(captured=[f"{number}-{hold}/0" for number in range(4)])
                time.sleep(0.002)
                transaction.set_rollback(True)
        ledger.settle(captured=[f"{number}-{hold}/0" for number in range(4)])

    results = at_once(12, settle)

    assert results == [None] * 12
    assert {(a.balance, a.held) for a in Account.objects.exclude(pk=account.pk)} == {(Decimal(88), Decimal(0))}
