"""The admin as a whole, its users and its keys."""

import re

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.urls import reverse

from billing.models import Posting
from outbox.models import Attempt, OptOut, ProtectedName
from smsportal import notices
from smsportal.models import ApiKey, Notice, User, WebhookDelivery, WebhookEndpoint
from tests.database import whole_database

REGISTERED = [model for model in admin.site._registry if model._meta.app_label in {"smsportal", "billing", "outbox"}]
OURS = [model for model in REGISTERED if not model._meta.proxy]  # a proxy is only a list
LOGS = (Posting, Notice, WebhookEndpoint, WebhookDelivery)
KEPT_BY_STAFF = (OptOut, ProtectedName)
APPEND_ONLY = [
    model for model in OURS if (model._meta.app_label == "outbox" and model not in KEPT_BY_STAFF) or model in LOGS
]


def url(model, page, *args):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_every_page_of_the_admin_opens_for_a_superuser(admin_site, one_of_each, model):
    row = model._default_manager.first()
    pages = [url(model, "changelist"), url(model, "change", row.pk), url(model, "history", row.pk)]
    if admin.site._registry[model].has_add_permission(admin_site.get("/admin/").wsgi_request):
        pages.append(url(model, "add"))

    for page in [*pages, url(model, "changelist") + "?q=nothing"]:
        assert admin_site.get(page).status_code == 200, page


def test_all_our_models_are_in_the_admin_except_keys_of_requests_and_mere_counts():
    ours = {model for app in ("smsportal", "billing", "outbox") for model in apps.get_app_config(app).get_models()}

    absent = {"AttemptCount", "Bucket", "IdempotencyKey", "NoticeSubject"}
    assert {model.__name__ for model in ours - set(REGISTERED)} == absent


@pytest.mark.parametrize("model", APPEND_ONLY, ids=lambda model: model.__name__)
def test_what_is_written_by_the_portal_cannot_be_added_changed_or_deleted_even_by_a_superuser(
    admin_site, one_of_each, model
):
    row = model._default_manager.first()
    before = model._default_manager.values().get(pk=row.pk)
    selected = {"action": "delete_selected", "_selected_action": row.pk, "post": "yes"}

    assert admin_site.post(url(model, "add"), {}).status_code == 403
    assert admin_site.post(url(model, "change", row.pk), {"amount": "1", "status": "sent"}).status_code == 403
    assert admin_site.post(url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    admin_site.post(url(model, "changelist"), selected)

    assert model._default_manager.values().get(pk=row.pk) == before
    assert b"delete_selected" not in admin_site.get(url(model, "changelist")).content


MONEY_AND_STATE = {
    *("balance", "held", "spent_today", "spent_on", "status", "state", "outcome", "total_cost", "price_per_segment"),
    *("charge_status", "digest"),
}


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_no_form_of_the_admin_has_a_field_for_balance_state_or_cost(admin_site, one_of_each, model):
    response = admin_site.get(url(model, "change", model._default_manager.first().pk))

    form = response.context["adminform"]
    editable = set(form.form.fields) - set(form.readonly_fields)
    assert not editable & MONEY_AND_STATE
    assert not admin.site._registry[model].list_editable


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_no_page_needs_inline_scripts_or_styles(admin_site, one_of_each, model):
    for page in [url(model, "changelist"), url(model, "change", model._default_manager.first().pk)]:
        response = admin_site.get(page)

        assert "default-src 'self'" in response["Content-Security-Policy"]
        assert not re.search(rb"<style|<script(?![^>]*src=)|\son\w+=|\sstyle=", response.content), page


# --- users ------------------------------------------------------------------------------------------------------------


def test_a_user_is_added_and_changed_and_given_a_password(admin_site, superuser):
    password = "a long-enough Secret 7"
    admin_site.post(
        url(User, "add"),
        {"username": "new", "usable_password": "true", "password1": password, "password2": password},
    )
    user = User.objects.get(username="new")
    changed = {"username": "new", "default_sender_id": "NEWBRAND", "max_retries": "5", "is_active": "on"}
    changed["rate_limit_per_minute"] = "60"
    admin_site.post(url(User, "change", user.pk), changed)
    admin_site.post(
        reverse("admin:auth_user_password_change", args=[user.pk]),
        {"usable_password": "true", "password1": password * 2, "password2": password * 2},
    )

    user.refresh_from_db()
    assert (user.default_sender_id, user.max_retries, user.rate_limit_per_minute) == ("NEWBRAND", 5, 60)
    assert user.check_password(password * 2)
    assert not LogEntry.objects.filter(change_message__contains=password).exists()


def test_nobody_deletes_a_user_since_what_they_did_would_lose_its_author(admin_site, user):
    assert admin_site.post(url(User, "delete", user.pk), {"post": "yes"}).status_code == 403


def test_staff_who_may_change_users_cannot_give_rights_to_anybody(staff_with, user):
    staff = staff_with("smsportal.view_user", "smsportal.change_user")

    staff.post(
        url(User, "change", user.pk),
        {"username": user.username, "is_active": "on", "is_staff": "on", "is_superuser": "on"},
    )

    user.refresh_from_db()
    assert (user.is_staff, user.is_superuser) == (False, False)


def test_staff_who_may_change_groups_cannot_give_their_own_group_rights(staff_with):
    group = Group.objects.create(name="support")
    staff = staff_with("auth.view_group", "auth.change_group", "auth.add_group", "auth.delete_group")

    assert staff.get(reverse("admin:auth_group_change", args=[group.pk])).status_code == 200
    assert staff.post(reverse("admin:auth_group_change", args=[group.pk]), {"name": "mine"}).status_code == 403


@pytest.mark.parametrize("page", ["admin:smsportal_user_change", "admin:auth_user_password_change"])
def test_staff_who_may_change_users_cannot_take_over_a_colleague(staff_with, superuser, page):
    staff = staff_with("smsportal.view_user", "smsportal.change_user")

    assert staff.post(reverse(page, args=[superuser.pk]), {"username": "mine"}).status_code == 403


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_secret_of_a_new_key_is_shown_once_and_stored_nowhere(admin_site, user, caplog, client_of):
    response = admin_site.post(
        url(ApiKey, "add"),
        {"user": user.pk, "name": "shop", "scopes": ["send", "read"], "expires_at_0": "", "expires_at_1": ""},
    )

    key = ApiKey.objects.get(name="shop")
    (secret,) = re.findall(r"<code>(sms_[\w-]+)</code>", response.content.decode())
    assert key.digest == ApiKey.digest_of(secret)
    assert "no-store" in response["Cache-Control"]
    stored, pages = whole_database(), [url(ApiKey, "changelist"), url(ApiKey, "change", key.pk), "/admin/"]
    assert key.digest in stored  # the search finds what is there
    assert secret not in stored
    assert not any(secret in cookie.value for cookie in admin_site.cookies.values())
    assert not any(secret in admin_site.get(page).content.decode() for page in pages)
    assert secret not in caplog.text


def test_a_key_is_revoked_by_post_once_and_stays_as_it_is_otherwise(admin_site, user, superuser):
    key, _ = ApiKey.issue(user, "shop")
    revoke = reverse("admin:smsportal_apikey_revoke", args=[key.pk])

    assert admin_site.get(revoke).status_code == 200
    assert ApiKey.objects.usable().filter(pk=key.pk).exists()  # asking has done nothing
    admin_site.post(revoke)
    first = ApiKey.objects.get(pk=key.pk).revoked_at
    admin_site.post(revoke)

    assert not ApiKey.objects.usable().filter(pk=key.pk).exists()
    assert ApiKey.objects.get(pk=key.pk).revoked_at == first
    assert [(entry.user, entry.change_message) for entry in LogEntry.objects.all()] == [(superuser, "Revoked.")]
    assert admin_site.post(url(ApiKey, "change", key.pk), {"name": "other"}).status_code == 403
    assert admin_site.post(url(ApiKey, "delete", key.pk), {"post": "yes"}).status_code == 403


def test_staff_without_permission_neither_make_nor_revoke_keys(staff_with, user):
    key, _ = ApiKey.issue(user, "shop")
    staff = staff_with("smsportal.view_apikey")

    assert staff.post(url(ApiKey, "add"), {"user": user.pk, "name": "mine"}).status_code == 403
    assert staff.post(reverse("admin:smsportal_apikey_revoke", args=[key.pk])).status_code == 403
    assert b"/revoke/" not in staff.get(url(ApiKey, "change", key.pk)).content
    assert b"/revoke/" in staff_with("smsportal.change_apikey").get(url(ApiKey, "change", key.pk)).content


@pytest.mark.parametrize(
    "address",
    [
        "/admin/outbox/outbox/?text__contains=4321",
        "/admin/outbox/outbox/?request_fingerprint__startswith=a",
        "/admin/outbox/outbox/?user__password__startswith=a",
        "/admin/outbox/receipt/?raw__a=b",
        "/admin/smsportal/apikey/?digest__startswith=a",
        "/admin/smsportal/user/?password__startswith=a",
        "/admin/billing/posting/?created_by__password__startswith=a",
    ],
)
def test_no_secret_can_be_guessed_by_filters_in_the_address(admin_site, address):
    assert admin_site.get(address).status_code == 400


def test_people_who_are_not_staff_see_no_page_of_the_admin(client, user):
    client.force_login(user)

    assert client.get("/admin/").status_code == 302
    assert client.get(url(Attempt, "changelist")).status_code == 302


def test_a_critical_notice_is_on_every_page_of_the_admin_until_its_cause_is_over(admin_site, db):
    notices.tell_staff("test", "it", "The house <b>burns</b>.")
    notices.tell_staff("test", "other", "It may rain.", Notice.Level.WARNING)

    for page in ("/admin/", url(User, "changelist"), url(Notice, "changelist")):
        assert "The house &lt;b&gt;burns&lt;/b&gt;." in admin_site.get(page).content.decode()
    assert "It may rain." not in admin_site.get("/admin/").content.decode()
    assert "It may rain." in admin_site.get(url(Notice, "changelist")).content.decode()

    notices.end_for_staff("test", "it")

    assert "burns" not in admin_site.get("/admin/").content.decode()
    assert "burns" not in admin_site.get(url(Notice, "changelist")).content.decode()
    assert "burns" in admin_site.get(url(Notice, "changelist") + "?over=yes").content.decode()


def test_notices_are_not_for_strangers(client, db):
    notices.tell_staff("test", "it", "The house burns.")

    assert "burns" not in client.get("/admin/login/").content.decode()
