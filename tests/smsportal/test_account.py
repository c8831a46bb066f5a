"""People change their own password."""

import pytest
from django.test import Client

from smsportal.models import ApiKey

PAGE = "/account/password/"
OLD, NEW = "correct horse battery", "another horse and battery"


@pytest.fixture
def browser(user):
    user.set_password(OLD)
    user.save()
    browser = Client()
    browser.force_login(user)
    return browser


def change(browser, old=OLD, new=NEW, again=NEW):
    return browser.post(PAGE, {"old_password": old, "new_password1": new, "new_password2": again})


def test_a_changed_password_ends_the_other_sessions_and_no_key(browser, user, account, client_of):
    other = Client()
    other.force_login(user)
    app = client_of(user)
    before = browser.session.session_key

    assert change(browser)["Location"] == "/outbox/"

    user.refresh_from_db()
    assert user.check_password(NEW)
    assert b"Your password is changed." in browser.get("/outbox/").content
    assert browser.session.session_key != before
    assert other.get("/outbox/").status_code == 302
    assert app.get("/api/sms/outbox").status_code == 200
    assert ApiKey.objects.usable().exists()


@pytest.mark.parametrize(
    "typed",
    [
        {"old": "wrong"},
        {"again": "different"},
        {"new": "1234", "again": "1234"},
        {"new": "password", "again": "password"},
    ],
)
def test_a_wrong_or_weak_one_changes_nothing(browser, user, typed):
    assert change(browser, **typed).status_code == 200

    user.refresh_from_db()
    assert user.check_password(OLD)


def test_the_page_is_a_link_away_and_for_those_who_are_logged_in(browser):
    assert f'href="{PAGE}"'.encode() in browser.get("/outbox/").content
    assert Client().get(PAGE)["Location"] == f"/login/?next={PAGE}"
