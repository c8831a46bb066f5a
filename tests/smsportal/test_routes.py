"""Every address of the site: that it is known here, that looking changes nothing, and that nobody else can act."""

import re

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.test import Client

from billing import ledger
from outbox.models import Outbox, SenderId
from smsportal.models import ApiKey, Notice, User, WebhookDelivery, WebhookEndpoint
from tests.database import whole_database
from tests.factories import UserFactory
from tests.routes import address, routes

# A new address is entered here, with those who may use it, once the tests of this file have been thought about for it.
ANYBODY = {"healthz", "readyz", "metrics", "login/", "logout/", "api/schema", "api/docs", "api/errors"}
PROVIDERS = {"api/providers/<str:provider>/receipts/<str:token>"}
KEYS = {
    "api/sms/send",
    "api/sms/outbox",
    "api/sms/quote",
    "api/sms/outbox/export",
    "api/sms/outbox/resend",
    "api/sms/outbox/<str:outboxId>",
    "api/sms/outbox/<str:outboxId>/cancel",
    "api/billing/balance",
    "api/billing/statement",
    "api/billing/prices",
    "api/alerts",
    "api/alerts/settings",
    "api/alerts/<str:alertId>/read",
    "api/webhooks",
    "api/webhooks/<str:webhookId>",
    "api/webhooks/<str:webhookId>/enable",
    "api/webhooks/<str:webhookId>/test",
    "api/webhooks/<str:webhookId>/deliveries",
    "api/webhooks/<str:webhookId>/deliveries/<str:deliveryId>/replay",
}
USERS = {
    "",
    "outbox/",
    "outbox/new/",
    "outbox/<uuid:outbox_id>/",
    "outbox/<uuid:outbox_id>/resend/",
    "settings/sender-ids/",
    "settings/sender-ids/default/",
    "account/password/",
    "settings/",
    "settings/keys/new/",
    "settings/keys/<int:key_id>/rotate/",
    "settings/keys/<int:key_id>/revoke/",
}
STAFF = {
    "account/second-factor/",
    "account/second-factor/code/",
    "account/second-factor/recovery/",
    "account/second-factor/remove/",
}
ADMIN_MODELS = {
    *("axes/accessattempt", "auth/group", "smsportal/user", "smsportal/apikey", "smsportal/notice"),
    *("smsportal/webhookendpoint", "smsportal/webhookdelivery"),
    *("billing/account", "billing/posting", "billing/price"),
    *("outbox/outbox", "outbox/attempt", "outbox/receipt", "outbox/providerstate", "outbox/worker"),
    *("outbox/unknownoutcome", "outbox/auditrun", "outbox/senderid", "outbox/protectedname", "outbox/optout"),
}
ADMIN_PAGES = ("", "add/", "<path:object_id>/history/", "<path:object_id>/delete/", "<path:object_id>/change/")
DJANGO_ADMIN = {
    *("admin/", "admin/login/", "admin/logout/", "admin/password_change/", "admin/password_change/done/"),
    *("admin/autocomplete/", "admin/jsi18n/"),
    *(f"admin/{model}/{page}" for model in ADMIN_MODELS for page in (*ADMIN_PAGES, "<path:object_id>/")),
}
OUR_ADMIN = {
    "admin/smsportal/user/<id>/password/",
    "admin/smsportal/user/<uuid:user_id>/second-factor/",
    "admin/smsportal/apikey/<int:key_id>/revoke/",
    "admin/smsportal/apikey/<int:key_id>/rotate/",
    "admin/billing/account/<int:account_id>/top-up/",
    "admin/billing/account/<int:account_id>/adjust/",
    "admin/outbox/outbox/resend/",
    "admin/outbox/unknownoutcome/settle/",
    "admin/outbox/senderid/<int:pk>/approve/",
    "admin/outbox/senderid/<int:pk>/refuse/",
    "admin/outbox/providerstate/<path:provider>/stop/",
    "admin/outbox/providerstate/<path:provider>/start/",
}
# All but the door, and Django's words for dates.
ADMIN_INSIDE = (DJANGO_ADMIN | OUR_ADMIN) - {"admin/login/", "admin/jsi18n/"}
# Patterns that only lead on, or to "not found".
CATCH_ALL = {
    "admin/^(?P<app_label>" + "|".join(["smsportal", "axes", "auth", "billing", "outbox"]) + ")/$",
    "admin/(?P<url>.*)$",
}
ALL = sorted(ANYBODY | PROVIDERS | KEYS | USERS | STAFF | DJANGO_ADMIN | OUR_ADMIN)
OURS = sorted(ANYBODY | KEYS | USERS | STAFF)


def test_there_is_no_other_address():
    assert set(routes()) == {*ALL, *CATCH_ALL}
    assert {f"{model._meta.app_label}/{model._meta.model_name}" for model in admin.site._registry} == ADMIN_MODELS


@pytest.fixture
def where(one_of_each, account, superuser):
    """The address of a route, with rows that are there: messages of the superuser's own, another user."""
    Group.objects.create(name="support")
    ledger.account_of(superuser)  # else opened, empty, by the first that needs it
    entry, endpoint, delivery = Outbox.objects.get(), WebhookEndpoint.objects.get(), WebhookDelivery.objects.get()
    Outbox.objects.update(user=superuser)
    WebhookEndpoint.objects.update(user=superuser)
    key, _ = ApiKey.issue(superuser, "app")
    alert = Notice.objects.get(user=account.user)
    Notice.objects.filter(pk=alert.pk).update(user=superuser)

    def where(route):
        other = {"object_id": account.user.pk, "user_id": account.user.pk} if "/user/" in route else {}
        return address(
            route,
            outbox_id=entry.pk,
            outboxId=entry.pk,
            provider="locmem",
            token="x",
            id=account.user.pk,
            key_id=key.pk,
            alertId=alert.pk,
            webhookId=endpoint.pk,
            deliveryId=delivery.pk,
            pk=SenderId.objects.get().pk,
            **{"account_id": account.pk, **other},
        )

    return where


@pytest.fixture
def superusers_browser(superuser):
    """With checks of CSRF, as a real one, and a session that is there already."""
    browser = Client(enforce_csrf_checks=True, raise_request_exception=False)
    browser.force_login(superuser)
    return browser


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_looking_changes_nothing(superusers_browser, where, method):
    before = whole_database()

    for route in ALL:
        if route not in PROVIDERS:  # some report by GET, each with a secret in the address
            answer = superusers_browser.generic(method, where(route))
            if answer.streaming:
                list(answer.streaming_content)  # the export is read as it is asked for
            assert answer.status_code < 500, route

    assert whole_database() == before


def test_nothing_is_done_for_a_form_that_did_not_come_from_the_site(superusers_browser, where):
    before = whole_database()

    for route in ALL:
        if route not in PROVIDERS:
            answer = superusers_browser.post(where(route), {"reason": "x", "confirm": "yes", "post": "yes"})
            # The API takes no forms at all, and its JSON cannot be sent from elsewhere without a question first.
            expected = {403, 405, 415} if route.startswith("api/") else {403}
            assert answer.status_code in expected, route
    for route in KEYS:
        answer = superusers_browser.post(where(route), "{}", content_type="application/json")
        assert answer.status_code == 403, route

    assert whole_database() == before


TAKEN = {("DELETE", "api/webhooks/<str:webhookId>")}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "PROPFIND"])
def test_another_method_is_answered_with_those_there_are(superuser, where, method):
    browser = Client(raise_request_exception=False)
    browser.force_login(superuser)
    before = whole_database()

    for route in OURS:
        if (method, route) in TAKEN:
            continue
        answer = browser.generic(method, where(route))
        assert answer.status_code == 405, route
        assert answer["Allow"], route
    for route in DJANGO_ADMIN | OUR_ADMIN:
        assert browser.generic(method, where(route)).status_code < 500, route

    assert whole_database() == before


def test_a_stranger_sees_and_does_nothing(where):
    before = whole_database()

    for route in KEYS | USERS | STAFF | ADMIN_INSIDE:
        for method in ("GET", "POST") if route else ("GET",):
            answer = Client().generic(method, where(route))
            assert answer.status_code == (401 if route in KEYS else 302), (route, method)
            if route not in KEYS:
                assert re.match(r"/(admin/)?login/\?next=|/outbox/$|/admin/", answer["Location"]), route

    assert whole_database() == before


def test_somebody_who_is_not_staff_sees_and_does_nothing_of_the_admin(where, db):
    browser = Client()
    browser.force_login(UserFactory())
    before = whole_database()

    for route in ADMIN_INSIDE:
        for method in ("GET", "POST"):
            assert browser.generic(method, where(route)).status_code == 302, route

    assert whole_database() == before


# --- the staff and their permissions ----------------------------------------------------------------------------------

# Open to all of the staff: the index, their own password, and what looks further itself.
FOR_ALL_STAFF = {
    *("admin/", "admin/login/", "admin/logout/", "admin/password_change/", "admin/password_change/done/"),
    "admin/jsi18n/",
}
# To another page, which is refused.
LEADS_ON = re.compile(r"/<path:object_id>/$|unknownoutcome/<path:object_id>/(change|history)/$")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_staff_without_a_permission_get_403_everywhere(staff_with, where, method):
    staff = staff_with()
    before = whole_database()

    for route in (DJANGO_ADMIN | OUR_ADMIN) - FOR_ALL_STAFF:
        answer = staff.generic(method, where(route))
        expected = 302 if LEADS_ON.search(route) else 403
        assert answer.status_code == expected or (method == "POST" and answer.status_code == 405), route

    assert whole_database() == before


ACTS = {
    # what it takes, beside seeing the row
    "admin/smsportal/user/<uuid:user_id>/second-factor/": None,  # superusers only
    "admin/smsportal/user/<id>/password/": "smsportal.change_user",
    "admin/smsportal/apikey/<int:key_id>/revoke/": "smsportal.change_apikey",
    "admin/smsportal/apikey/<int:key_id>/rotate/": "smsportal.add_apikey",  # and that to revoke
    "admin/billing/account/<int:account_id>/top-up/": "billing.move_money",
    "admin/billing/account/<int:account_id>/adjust/": "billing.move_money",
    "admin/outbox/outbox/resend/": "outbox.resend_outbox",
    "admin/outbox/unknownoutcome/settle/": "outbox.settle_unknown",
    "admin/outbox/senderid/<int:pk>/approve/": "outbox.decide_senderid",
    "admin/outbox/senderid/<int:pk>/refuse/": "outbox.decide_senderid",
    "admin/outbox/providerstate/<path:provider>/stop/": "outbox.operate_provider",
    "admin/outbox/providerstate/<path:provider>/start/": "outbox.operate_provider",
}
ALL_ELSE = "all permissions but that one"


def everything_but(permission):

    held = (
        f"{each.content_type.app_label}.{each.codename}" for each in Permission.objects.select_related("content_type")
    )
    return [each for each in held if each != permission]


def test_every_act_of_the_admin_is_in_the_table():
    assert set(ACTS) == OUR_ADMIN


@pytest.mark.parametrize("route", sorted(OUR_ADMIN))
def test_an_act_takes_its_own_permission_and_no_other_helps(staff_with, where, route):
    staff = staff_with(*everything_but(ACTS[route]))
    before = whole_database()

    assert staff.get(where(route)).status_code == 403
    assert staff.post(where(route), {"reason": "x"}).status_code == 403

    assert whole_database() == before


ACTIONS = {
    "auth/group": {"delete_selected": "auth.delete_group"},
    "axes/accessattempt": {"let_in": "axes.delete_accessattempt"},
    "outbox/outbox": {"resend": "outbox.resend_outbox"},
    "outbox/unknownoutcome": {"settle": "outbox.settle_unknown"},
}


def test_an_action_is_not_offered_without_its_permission_and_none_but_that_of_groups_deletes(staff_with, rf, superuser):
    offered = {}
    for model, page in admin.site._registry.items():
        request = rf.get("/")
        request.user = superuser
        assert not page.list_editable, model
        if actions := page.get_actions(request):
            offered[f"{model._meta.app_label}/{model._meta.model_name}"] = actions
    assert {model: set(actions) for model, actions in offered.items()} == {
        model: set(actions) for model, actions in ACTIONS.items()
    }
    for model, page in admin.site._registry.items():
        for action, permission in ACTIONS.get(f"{model._meta.app_label}/{model._meta.model_name}", {}).items():
            request = rf.get("/")
            client = staff_with(*everything_but(permission))
            request.user = User.objects.get(pk=client.session["_auth_user_id"])
            assert action not in page.get_actions(request)


KEPT_BY_STAFF = {"auth/group", "outbox/optout", "outbox/protectedname"}


def test_not_even_a_superuser_deletes_anything_but_groups_opt_outs_and_protected_names(admin_site, where):
    for model in ADMIN_MODELS:
        answer = admin_site.post(where(f"admin/{model}/<path:object_id>/delete/"), {"post": "yes"})
        assert answer.status_code == (302 if model in KEPT_BY_STAFF else 403), model
