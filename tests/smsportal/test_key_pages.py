"""Keys in the settings, and in the admin: made, shown once, rotated, revoked."""

import html
import re
import shlex
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from smsportal.models import ApiKey
from tests.factories import UserFactory

KEYS, NEW = "/settings/", "/settings/keys/new/"
FORM = {"name": "shop", "scopes": ["send", "read"]}


@pytest.fixture
def site(user):
    """A browser in which `user` is logged in."""
    browser = Client()
    browser.force_login(user)
    return browser


def secret_in(response):
    (secret,) = re.findall(r"<code>(sms_[\w-]+)</code>", response.content.decode())
    return secret


def lets_in(secret):
    return Client().get("/api/sms/outbox", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


@pytest.mark.parametrize("path", [KEYS, NEW, "/settings/keys/1/rotate/", "/settings/keys/1/revoke/"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_every_page_asks_a_stranger_to_log_in(db, path, method):
    response = getattr(Client(), method)(path)

    assert (response.status_code, response["Location"]) == (302, f"/login/?next={path}")


def test_without_keys_the_page_says_what_they_are_for_and_the_navigation_leads_there(site):
    body = site.get(KEYS).content.decode()

    assert "You have no keys" in body
    assert f'href="{KEYS}"' in site.get("/outbox/").content.decode()


def test_a_new_keys_secret_is_in_the_answer_with_a_line_to_try_it_and_nowhere_else(site, user):
    response = site.post(NEW, FORM)

    secret = secret_in(response)
    assert lets_in(secret)
    assert f"Authorization: Bearer {secret}" in response.content.decode().replace("&#x27;", "'")
    assert "no-store" in response["Cache-Control"]
    assert secret not in site.get(KEYS).content.decode()
    assert not any(secret in cookie.value for cookie in site.cookies.values())
    key = ApiKey.objects.get()
    assert (key.user, key.name, key.scopes) == (user, "shop", ["send", "read"])


@pytest.mark.parametrize("scope", ["send", "read", "billing"])
def test_the_line_to_try_a_key_is_for_what_the_key_may(site, account, scope):
    response = site.post(NEW, FORM | {"scopes": [scope]})

    line = html.unescape(re.findall(r"<code>(curl .*?)</code>", response.content.decode())[0])
    _, _, address, *options = shlex.split(line)
    headers = dict(option.split(": ", 1) for option in options if not option.startswith(("-", "{")))
    body = [option for option in options if option.startswith("{")]
    path = address.removeprefix("http://testserver")
    answer = Client().post(path, body[0], "application/json", headers=headers) if body else None
    assert (answer or Client().get(path, headers=headers)).status_code == 200


def test_for_a_key_that_may_only_change_settings_there_is_nothing_to_try(site):
    assert "curl" not in site.post(NEW, FORM | {"scopes": ["settings"]}).content.decode()


def test_a_new_key_has_the_rights_that_were_typed(site, user):
    typed = {
        "is_test": "on",
        "expires_at": "2999-01-31T09:00",
        "allowed_sender_ids": "SHOP, MY BRAND",
        "allowed_ip_ranges": "192.0.2.0/24, 2001:db8::/32",
    }

    secret = secret_in(site.post(NEW, FORM | typed))

    key = ApiKey.objects.get()
    assert secret.startswith("sms_test_")
    assert key.user.live_user == user
    assert key.expires_at == datetime(2999, 1, 31, 9, tzinfo=UTC)
    assert key.allowed_sender_ids == ["SHOP", "MY BRAND"]
    assert key.allowed_ip_ranges == ["192.0.2.0/24", "2001:db8::/32"]
    body = site.get(KEYS).content.decode()
    for shown in ("shop", key.hint, "test", "send, read", "SHOP, MY BRAND", "192.0.2.0/24", "31 Jan 2999"):
        assert shown in body


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"expires_at": "2020-01-01T00:00"},
        {"expires_at": "soon"},
        {"allowed_ip_ranges": "here"},
        {"allowed_ip_ranges": "192.0.2.7/24"},
        {"allowed_sender_ids": "x" * 17},
    ],
    ids=str,
)
def test_what_is_wrong_is_said_beside_its_field_and_no_key_is_made(site, wrong):
    response = site.post(NEW, FORM | wrong)

    assert list(response.context["form"].errors) == list(wrong)
    assert "errorlist" in response.content.decode()
    assert not ApiKey.objects.exists()


def test_nobody_gives_himself_a_key_that_acts_for_others(site):
    site.post(NEW, FORM | {"may_act_for_others": "on"})

    assert not ApiKey.objects.get().may_act_for_others


def test_the_list_tells_what_has_become_of_each_key(site, user):
    ApiKey.issue(user, "new")
    ApiKey.issue(user, "gone")[0].revoke()
    ApiKey.issue(user, "old")
    ApiKey.objects.filter(name="old").update(expires_at=timezone.now() - timedelta(days=1))
    ApiKey.issue(UserFactory(), "somebody else's")

    rows = re.findall(r"<tr>.*?</tr>", site.get(KEYS).content.decode(), re.DOTALL)[1:]

    for row, (name, state) in zip(rows, [("old", "expired"), ("gone", "revoked"), ("new", "works")], strict=True):
        assert name in row
        assert f">{state}</span>" in row
        assert ("/revoke/" in row) == ("/rotate/" in row) == (state == "works")


def test_a_key_is_rotated_after_a_question_and_both_work(site, user):
    old, old_secret = ApiKey.issue(user, "shop")
    rotate = f"/settings/keys/{old.pk}/rotate/"

    assert 'value="24"' in site.get(rotate).content.decode()
    assert ApiKey.objects.count() == 1
    secret = secret_in(site.post(rotate, {"keep_hours": "1"}))

    assert lets_in(secret)
    assert lets_in(old_secret)
    old.refresh_from_db()
    assert old.expires_at is not None
    assert old.expires_at - timezone.now() <= timedelta(hours=1)
    again = site.post(rotate, {"keep_hours": "1"}, follow=True)
    assert "was replaced before" in again.content.decode()
    assert ApiKey.objects.count() == 2


@pytest.mark.parametrize("hours", ["", "-1", "721", "x"])
def test_a_rotation_that_makes_no_sense_is_asked_about_again(site, user, hours):
    key, _ = ApiKey.issue(user, "shop")

    response = site.post(f"/settings/keys/{key.pk}/rotate/", {"keep_hours": hours})

    assert "keep_hours" in response.context["form"].errors
    assert ApiKey.objects.count() == 1


def test_a_key_is_revoked_by_post_after_a_question(site, user):
    key, secret = ApiKey.issue(user, "shop")
    revoke = f"/settings/keys/{key.pk}/revoke/"

    assert "shop" in site.get(revoke).content.decode()
    assert lets_in(secret)
    assert "is revoked" in site.post(revoke, follow=True).content.decode()
    assert not lets_in(secret)
    assert "was revoked before" in site.post(revoke, follow=True).content.decode()


@pytest.mark.parametrize("act", ["rotate", "revoke"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_anothers_key_answers_exactly_as_one_that_does_not_exist(site, act, method):
    key, secret = ApiKey.issue(UserFactory(), "x")

    def answer(key_id):
        response = getattr(site, method)(f"/settings/keys/{key_id}/{act}/", {"keep_hours": "0"})
        return response.status_code, re.sub(rb'name="csrfmiddlewaretoken" value="[^"]*"', b"", response.content)

    assert answer(key.pk) == answer(key.pk + 1000)
    assert answer(key.pk)[0] == 404
    assert lets_in(secret)


def test_forms_from_elsewhere_are_refused(user):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)
    key, secret = ApiKey.issue(user, "shop")

    for path in (NEW, f"/settings/keys/{key.pk}/rotate/", f"/settings/keys/{key.pk}/revoke/"):
        assert browser.post(path, FORM | {"keep_hours": "0"}).status_code == 403

    assert lets_in(secret)
    assert ApiKey.objects.count() == 1


def test_what_is_typed_as_a_name_is_shown_as_text(site, user):
    key, _ = ApiKey.issue(user, "<b>x</b>", allowed_sender_ids=["<i>y</i>"])

    for path in (KEYS, f"/settings/keys/{key.pk}/rotate/", f"/settings/keys/{key.pk}/revoke/"):
        response = site.get(path)
        assert b"<b>x" not in response.content
        assert b"<i>y" not in response.content
        assert not re.search(rb"<style|<script(?![^>]*src=)|\son\w+=|\sstyle=", response.content)


def test_the_list_asks_the_database_as_often_for_many_keys_as_for_one(site, user, django_assert_num_queries):
    def make(number):
        ApiKey.issue(user, f"a{number}")[0].rotate()
        ApiKey.issue(user, f"b{number}", is_test=True)

    make(0)
    with CaptureQueriesContext(connection) as few:
        site.get(KEYS)
    for number in range(1, 5):
        make(number)

    with django_assert_num_queries(len(few)):
        site.get(KEYS)


# --- the admin --------------------------------------------------------------------------------------------------------


def test_staff_rotate_a_key_and_the_history_of_both_says_so(admin_site, user, superuser):
    old, old_secret = ApiKey.issue(user, "shop", scopes=["read"])
    rotate = reverse("admin:smsportal_apikey_rotate", args=[old.pk])

    assert rotate in admin_site.get(reverse("admin:smsportal_apikey_change", args=[old.pk])).content.decode()
    assert admin_site.get(rotate).status_code == 200
    secret = secret_in(admin_site.post(rotate, {"keep_hours": "2"}))

    assert lets_in(secret)
    assert lets_in(old_secret)
    new = ApiKey.objects.get(replaces=old)
    history = {entry.object_id: (entry.user, entry.change_message) for entry in LogEntry.objects.all()}
    assert history == {
        str(old.pk): (superuser, f"Rotated: {new} takes its place; it works on for 2 hours."),
        str(new.pk): (superuser, f"Made in the place of {old}."),
    }
    assert not any(secret in message for _, message in history.values())
    admin_site.post(rotate, {"keep_hours": "2"})
    assert ApiKey.objects.count() == 2


def test_to_rotate_a_key_takes_the_rights_to_make_and_to_revoke_one(staff_with, user):
    key, _ = ApiKey.issue(user, "shop")
    rotate = reverse("admin:smsportal_apikey_rotate", args=[key.pk])

    for permissions in (["change_apikey"], ["add_apikey", "view_apikey"]):
        staff = staff_with(*(f"smsportal.{name}" for name in permissions))
        assert staff.post(rotate, {"keep_hours": "0"}).status_code == 403
        assert staff.get(rotate).status_code == 403
    both = staff_with("smsportal.add_apikey", "smsportal.change_apikey")
    assert secret_in(both.post(rotate, {"keep_hours": "0"}))


def test_staff_make_a_key_with_all_its_rights(admin_site, user):
    form = {
        "user": user.pk,
        "name": "shop",
        "scopes": ["billing"],
        "expires_at_0": "2999-01-01",
        "expires_at_1": "00:00",
        "allowed_sender_ids": "SHOP",
        "allowed_ip_ranges": "192.0.2.0/24",
        "may_act_for_others": "on",
    }

    secret = secret_in(admin_site.post(reverse("admin:smsportal_apikey_add"), form))

    key = ApiKey.objects.get(digest=ApiKey.digest_of(secret))
    assert (key.scopes, key.allowed_sender_ids, key.allowed_ip_ranges) == (["billing"], ["SHOP"], ["192.0.2.0/24"])
    assert (key.may_act_for_others, key.expires_at) == (True, datetime(2999, 1, 1, tzinfo=UTC))


def test_staff_make_test_keys_which_act_for_nobody_else(admin_site, user):
    form = {"user": user.pk, "name": "try", "scopes": ["send"], "is_test": "on", "expires_at_0": "", "expires_at_1": ""}
    add = reverse("admin:smsportal_apikey_add")

    refused = admin_site.post(add, form | {"may_act_for_others": "on"})
    assert "acts for its own user only" in refused.content.decode()
    assert secret_in(admin_site.post(add, form)).startswith("sms_test_")

    assert ApiKey.objects.get().user.live_user == user
