"""Staff and money: read everywhere, moved only by a form with a reason, once."""

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import ledger
from billing.models import Account, Posting, Price
from tests.factories import PriceFactory


def page(account, name):
    return reverse(f"admin:billing_account_{name}", args=[account.pk])


def money(admin_site, account, name, **fields):
    """A form as the page gives it out, filled in."""
    token = admin_site.get(page(account, name)).context["form"]["token"].value()
    return {"amount": "50", "reference": "", "reason": "bank transfer", "token": str(token), **fields}


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_a_form_opened_before_money_was_spent_does_not_bring_it_back(admin_site, account, monkeypatch):
    stale = Account.objects.get(pk=account.pk)
    ledger.hold(account, Decimal(6), "message")
    monkeypatch.setattr("billing.admin.AccountAdmin.get_object", lambda *args: stale)

    admin_site.post(page(account, "change"), {"credit_limit": "5", "low_balance_threshold": "", "balance": "10"})

    account.refresh_from_db()
    assert (account.balance, account.held, account.credit_limit) == (Decimal(10), Decimal(6), Decimal(5))


def test_what_was_changed_on_an_account_is_in_its_history(admin_site, account, superuser):
    admin_site.post(page(account, "change"), {"credit_limit": "5", "low_balance_threshold": ""})

    entry = LogEntry.objects.get()
    assert (entry.user, entry.change_message) == (superuser, "credit_limit: 0.0000 → 5")


def test_staff_set_what_an_account_may_spend_in_a_day_and_where_it_may_send(admin_site, account):
    form = {"credit_limit": "0", "daily_spend_limit": "500", "allowed_destinations": "ke, UG,+255 71"}
    admin_site.post(page(account, "change"), form)

    account.refresh_from_db()
    assert (account.daily_spend_limit, account.allowed_destinations) == (500, ["KE", "UG", "+25571"])
    told = LogEntry.objects.get().change_message
    assert told == "daily_spend_limit: None → 500; allowed_destinations: [] → ['KE', 'UG', '+25571']"
    assert "500.0000" in admin_site.get(page(account, "change")).content.decode()


@pytest.mark.parametrize("wrong", ["XX", "254", "+0", "KE;UG", "Kenya"])
def test_a_country_that_is_none_is_refused(admin_site, account, wrong):
    form = {"credit_limit": "0", "allowed_destinations": f"UG,{wrong}"}

    assert "is neither a country" in admin_site.post(page(account, "change"), form).content.decode()
    account.refresh_from_db()
    assert account.allowed_destinations == []


def test_a_credit_limit_below_the_credit_in_use_is_refused(admin_site, account):
    Account.objects.filter(pk=account.pk).update(credit_limit=5)
    ledger.hold(Account.objects.get(pk=account.pk), Decimal(12), "message")

    response = admin_site.post(page(account, "change"), {"credit_limit": "1", "low_balance_threshold": ""})

    assert b"2 KES of the credit are in use." in response.content
    assert Account.objects.get(pk=account.pk).credit_limit == 5


def test_a_top_up_is_a_posting_with_its_author_and_reason(admin_site, account, superuser):
    response = admin_site.post(page(account, "top_up"), money(admin_site, account, "top_up"), follow=True)

    posting = Posting.objects.get(created_by=superuser)
    assert (posting.kind, posting.amount, posting.reason) == ("top_up", Decimal(50), "bank transfer")
    assert Account.objects.get(pk=account.pk).balance == Decimal(60)
    assert b"Topped up by 50 KES" in response.content
    assert "bank transfer" in LogEntry.objects.get(user=superuser).change_message


@pytest.mark.parametrize("fields", [{}, {"reference": "INV-7"}], ids=["no reference", "with a reference"])
@pytest.mark.parametrize("name", ["top_up", "adjust"])
def test_a_form_that_is_sent_twice_is_one_posting(admin_site, account, name, fields):
    form = money(admin_site, account, name, **fields)

    admin_site.post(page(account, name), form)
    again = admin_site.post(page(account, name), form, follow=True)

    assert Posting.objects.filter(reason="bank transfer").count() == LogEntry.objects.count() == 1
    assert Account.objects.get(pk=account.pk).balance == Decimal(60)
    assert b"nothing was posted a second time" in again.content


@pytest.mark.django_db(transaction=True)
def test_two_clicks_at_the_same_moment_are_one_posting(admin_site, account, superuser):
    form = money(admin_site, account, "top_up")

    def click():
        browser = Client()
        browser.cookies = admin_site.cookies
        browser.post(page(account, "top_up"), form)
        connection.close()

    clicks = [threading.Thread(target=click) for _ in range(4)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()

    assert Posting.objects.filter(reason="bank transfer").count() == 1
    assert Account.objects.get(pk=account.pk).balance == Decimal(60)


def test_another_amount_with_a_used_form_or_reference_is_refused(admin_site, account):
    form = money(admin_site, account, "top_up")
    admin_site.post(page(account, "top_up"), form)
    admin_site.post(page(account, "top_up"), money(admin_site, account, "top_up", reference="INV-7"))

    went_back = admin_site.post(page(account, "top_up"), {**form, "amount": "70"})
    mistyped = admin_site.post(
        page(account, "top_up"), money(admin_site, account, "top_up", reference="INV-7", amount="1")
    )

    assert b"This form has been used." in went_back.content
    assert b"Another posting has this reference." in mistyped.content
    assert Account.objects.get(pk=account.pk).balance == Decimal(110)


@pytest.mark.parametrize(
    ("name", "fields", "error"),
    [
        ("top_up", {"reason": " "}, "required"),
        ("top_up", {"amount": "0"}, "greater than or equal to 0.0001"),
        ("top_up", {"amount": "-5"}, "greater than or equal to 0.0001"),
        ("top_up", {"amount": "NaN"}, "Enter a number"),
        ("top_up", {"amount": "0.00001"}, "4 decimal places"),
        ("top_up", {"amount": "9999999999.9999"}, "more than 14 digits"),
        ("adjust", {"amount": "0"}, "not 0"),
        ("adjust", {"amount": "-10.0001"}, "10.0001 KES is needed and 10 KES is available"),
        ("adjust", {"reason": ""}, "required"),
        ("adjust", {"token": "x"}, "Enter a valid UUID"),
    ],
)
def test_what_is_wrong_with_a_top_up_or_adjustment_is_said_and_nothing_moves(admin_site, account, name, fields, error):
    response = admin_site.post(page(account, name), money(admin_site, account, name, **fields))

    assert error in response.content.decode()
    assert not LogEntry.objects.exists()
    assert Account.objects.get(pk=account.pk).balance == Decimal(10)


def test_an_adjustment_takes_what_is_available(admin_site, account):
    admin_site.post(page(account, "adjust"), money(admin_site, account, "adjust", amount="-10"))

    assert Account.objects.get(pk=account.pk).balance == 0


@pytest.mark.parametrize("name", ["top_up", "adjust"])
def test_staff_without_the_permission_to_move_money_get_403_and_no_button(staff_with, account, name):
    staff = staff_with("billing.view_account", "billing.change_account", "billing.view_posting")

    form = {"amount": "50", "reason": "for me", "token": "019ab3c2-0000-7000-8000-000000000000"}
    assert staff.get(page(account, name)).status_code == 403
    assert staff.post(page(account, name), form).status_code == 403
    assert page(account, name).encode() not in staff.get(page(account, "change")).content
    assert Account.objects.get(pk=account.pk).balance == Decimal(10)


def test_staff_with_the_permission_to_move_money_need_no_other_than_to_see_the_account(staff_with, account):
    staff = staff_with("billing.view_account", "billing.move_money")

    staff.post(page(account, "top_up"), money(staff, account, "top_up"))

    assert Account.objects.get(pk=account.pk).balance == Decimal(60)


def test_money_moves_for_no_form_of_another_site(account, superuser):
    stranger = Client(enforce_csrf_checks=True)
    stranger.force_login(superuser)

    assert stranger.post(page(account, "top_up"), {"amount": "50", "reason": "x"}).status_code == 403


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_postings_are_found_by_account_reference_and_user(admin_site, account):
    ledger.top_up(account, Decimal(1), reason="one more", reference="INV-7")
    postings = reverse("admin:billing_posting_changelist")

    def found(query):
        return {row.reason for row in admin_site.get(postings + query).context["cl"].result_list}

    assert found("?q=INV-7") == {"one more"}
    assert found("?q=amina") == found(f"?account__id__exact={account.pk}") == {"one more", "first payment"}
    assert found("?q=INV-%25") == found("?q=INV") == set()


# --- prices -----------------------------------------------------------------------------------------------------------


def add_price(admin_site, **fields):
    form = {"user": "", "prefix": "+254 7", "price_per_segment": "0.5", "currency": "", "reason": "new list"}
    return admin_site.post(
        reverse("admin:billing_price_add"), {**form, "effective_from_0": "", "effective_from_1": "", **fields}
    )


def test_a_price_is_added_from_now_on_for_a_prefix_as_it_is_typed(admin_site, superuser):
    add_price(admin_site)

    price = Price.objects.get()
    assert (price.prefix, price.price_per_segment, price.currency) == ("2547", Decimal("0.5"), "KES")
    assert (price.created_by, price.reason) == (superuser, "new list")
    assert abs(price.effective_from - timezone.now()) < timedelta(minutes=1)


LONG_AGO = {"effective_from_0": "2026-01-01", "effective_from_1": "00:00:00"}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"price_per_segment": "0"}, "greater than or equal to 0.0001"),
        ({"price_per_segment": "-1"}, "greater than or equal to 0.0001"),
        ({"price_per_segment": "1000000.0001"}, "less than or equal to 1000000"),
        ({"prefix": "07"}, "Give the first digits"),
        ({"prefix": "abc"}, "Give the first digits"),
        ({"reason": ""}, "required"),
        ({"currency": "K3S"}, "Enter a valid value"),
        (LONG_AGO, "cannot begin in the past"),
        ({"effective_from_0": "2099-01-01", "effective_from_1": "00:00:00"}, "There is a price for these numbers"),
    ],
)
def test_what_is_wrong_with_a_price_is_said_in_a_sentence(admin_site, fields, error):
    add_price(admin_site, effective_from_0="2099-01-01", effective_from_1="00:00:00")

    response = add_price(admin_site, **fields)

    assert response.status_code == 200
    assert error in response.content.decode()
    assert "is violated" not in response.content.decode()
    assert Price.objects.count() == 1


def test_a_users_price_is_in_the_currency_of_the_users_account(admin_site, account):
    Account.objects.filter(pk=account.pk).update(currency="UGX")

    refused = add_price(admin_site, user=account.user_id, currency="KES")
    add_price(admin_site, user=account.user_id)

    assert b"is in UGX" in refused.content
    assert Price.objects.get(user=account.user).currency == "UGX"


def test_a_price_that_has_begun_is_neither_changed_nor_deleted(admin_site, price):
    form = {"prefix": "", "price_per_segment": "0.1", "reason": "cheaper"}

    assert admin_site.post(reverse("admin:billing_price_change", args=[price.pk]), form).status_code == 403
    assert admin_site.post(reverse("admin:billing_price_delete", args=[price.pk]), {"post": "yes"}).status_code == 403
    selected = {"action": "delete_selected", "_selected_action": price.pk, "post": "yes"}
    admin_site.post(reverse("admin:billing_price_changelist"), selected)
    assert Price.objects.get().price_per_segment == 1


def test_a_price_to_come_may_be_deleted_and_not_changed(admin_site):
    price = PriceFactory(effective_from=timezone.now() + timedelta(days=1))

    assert admin_site.post(reverse("admin:billing_price_change", args=[price.pk]), {"reason": "x"}).status_code == 403
    admin_site.post(reverse("admin:billing_price_delete", args=[price.pk]), {"post": "yes"})

    assert not Price.objects.exists()
