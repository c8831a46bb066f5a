"""What a key lets in, from where, for how long and to do what."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from urllib.parse import urlsplit

import pytest
import yaml
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import Rejected
from smsportal.models import ApiKey, KeyHasEnded
from tests.factories import SenderIdFactory, UserFactory
from tests.portal import ROOT
from tests.threads import at_once

LIST, SEND, BALANCE = "/api/sms/outbox", "/api/sms/send", "/api/billing/balance"
MESSAGE = {"recipientPhoneNumber": "+254711000001", "message": "Hello"}
SCOPES = {
    ("post", "/api/sms/send"): "send",
    ("post", "/api/sms/quote"): "send",
    ("post", "/api/sms/outbox/resend"): "send",
    ("post", "/api/sms/outbox/{outboxId}/cancel"): "send",
    ("get", "/api/sms/outbox"): "read",
    ("get", "/api/sms/outbox/{outboxId}"): "read",
    ("get", "/api/sms/outbox/export"): "read",
    ("get", "/api/billing/balance"): "billing",
    ("get", "/api/billing/statement"): "billing",
    ("get", "/api/billing/prices"): "billing",
    ("get", "/api/alerts"): "read",
    ("post", "/api/alerts/{alertId}/read"): "settings",
    ("get", "/api/alerts/settings"): "read",
    ("patch", "/api/alerts/settings"): "settings",
    ("get", "/api/webhooks"): "read",
    ("post", "/api/webhooks"): "settings",
    ("get", "/api/webhooks/{webhookId}"): "read",
    ("delete", "/api/webhooks/{webhookId}"): "settings",
    ("post", "/api/webhooks/{webhookId}/enable"): "settings",
    ("post", "/api/webhooks/{webhookId}/test"): "settings",
    ("get", "/api/webhooks/{webhookId}/deliveries"): "read",
    ("post", "/api/webhooks/{webhookId}/deliveries/{deliveryId}/replay"): "settings",
}


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def time_left(key):
    key.refresh_from_db()
    return key.expires_at - timezone.now()


def status_with(secret, path=LIST, **request):
    return Client().get(path, headers=bearer(secret), **request).status_code


# --- scopes -----------------------------------------------------------------------------------------------------------


def test_the_schema_says_of_each_operation_which_scope_it_needs(db):
    paths = yaml.safe_load(Client().get("/api/schema").content)["paths"]

    operations = {(method, path): said for path, methods in paths.items() for method, said in methods.items()}
    assert {operation: said["x-required-scope"] for operation, said in operations.items()} == SCOPES
    for operation, said in operations.items():
        assert f"scope `{SCOPES[operation]}`" in said["description"]
        assert "scope_missing" in said["responses"]["403"]["description"]


@pytest.mark.parametrize(("operation", "scope"), SCOPES.items(), ids=str)
def test_each_operation_takes_its_scope_and_no_other(client_of, account, operation, scope):
    entry = sending.send(account.user, recipient="+254711000001", text="Hello")
    method, path = operation[0], operation[1].format(outboxId=entry.pk, alertId=1, webhookId="x", deliveryId="x")
    body = MESSAGE if path in (SEND, "/api/sms/quote") else {"outboxId": str(entry.pk)} if "resend" in path else None
    others = [other for other in ApiKey.Scope.values if other != scope]
    rows = Outbox.objects.count()

    refused = getattr(client_of(account.user, scopes=others), method)(path, body)

    assert (refused.status_code, refused.json()["code"], refused.json()["scope"]) == (403, "scope_missing", scope)
    entry.refresh_from_db()
    assert (Outbox.objects.count(), entry.status) == (rows, "pending")
    assert getattr(client_of(account.user, scopes=[scope]), method)(path, body).status_code not in (401, 403)


def test_the_sites_own_session_has_all_scopes(account):
    browser = Client()
    browser.force_login(account.user)

    assert [browser.get(path).status_code for path in (LIST, BALANCE)] == [200, 200]


@pytest.mark.parametrize("scopes", [[], ["everything"], ["send", "admin"]])
def test_a_key_without_a_known_scope_is_not_made(user, scopes):
    with pytest.raises(ValidationError):
        ApiKey.issue(user, "shop", scopes=scopes)

    assert not ApiKey.objects.exists()


# --- sender ids -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SEND, "/api/sms/quote"])
@pytest.mark.parametrize(
    ("allowed", "sender", "is_allowed"),
    [
        ([], {"senderId": "OTHER"}, True),
        (["SHOP"], {"senderId": "SHOP"}, True),
        (["SHOP", "MYBRAND"], {}, True),  # the user's default counts as any other
        (["SHOP"], {}, False),
        (["SHOP"], {"senderId": "MYBRAND"}, False),
        (["SHOP"], {"senderId": "shop"}, False),
        (["SHOP"], {"senderId": "SHOP "}, False),
    ],
)
def test_a_key_sends_only_as_the_sender_ids_it_is_allowed(
    client_of, account, provider, path, allowed, sender, is_allowed
):
    for name in ("OTHER", "SHOP"):
        SenderIdFactory(user=account.user, name=name)

    response = client_of(account.user, allowed_sender_ids=allowed).post(path, MESSAGE | sender)

    if is_allowed:
        assert response.status_code in (200, 201)
    else:
        assert (response.status_code, response.json()["code"]) == (403, "sender_id_not_allowed")
        assert not Outbox.objects.exists()
        account.refresh_from_db()
        assert account.held == 0


def test_a_key_bound_to_sender_ids_does_not_send_as_the_providers_default(client_of, account):
    account.user.default_sender_id = ""
    account.user.save()

    response = client_of(account.user, allowed_sender_ids=["SHOP"]).post(SEND, MESSAGE)

    assert response.json()["code"] == "sender_id_not_allowed"


def test_a_key_does_not_resend_what_was_sent_as_somebody_else(client_of, account, provider):
    provider.error = Rejected("no")
    entry = sending.send(account.user, recipient="+254711000001", text="Hello", sender_id="MYBRAND")
    Dispatcher(concurrency=1).run(once=True)
    body = {"outboxId": str(entry.pk)}

    refused = client_of(account.user, allowed_sender_ids=["SHOP"]).post("/api/sms/outbox/resend", body)

    assert (refused.status_code, refused.json()["code"]) == (403, "sender_id_not_allowed")
    entry.refresh_from_db()
    assert (entry.status, entry.retry_count) == ("failed", 0)
    allowed = client_of(account.user, allowed_sender_ids=["MYBRAND"])
    assert allowed.post("/api/sms/outbox/resend", body).status_code == 200


# --- addresses --------------------------------------------------------------------------------------------------------

HERE, THERE = "192.0.2.7", "198.51.100.9"


@pytest.mark.parametrize(
    ("ranges", "proxies", "connected", "forwarded", "is_let_in"),
    [
        ([], 0, THERE, None, True),
        (["192.0.2.0/24"], 0, HERE, None, True),
        (["192.0.2.0/24"], 0, THERE, None, False),
        (["203.0.113.1", "192.0.2.7"], 0, HERE, None, True),
        (["192.0.2.8/32"], 0, HERE, None, False),
        (["2001:db8::/32"], 0, "2001:db8:1::1", None, True),
        (["2001:db8::/32"], 0, "2001:db9::1", None, False),
        (["2001:db8::/32"], 0, HERE, None, False),
        (["192.0.2.0/24"], 0, "::ffff:192.0.2.7", None, True),  # a socket for both kinds shows IPv4 so
        (["::/0"], 0, "::ffff:192.0.2.7", None, False),
        (["0.0.0.0/0"], 0, "", None, False),  # a Unix socket: nobody knows from where
        # Without a proxy the header is the client's own word.
        (["192.0.2.0/24"], 0, THERE, HERE, False),
        # One proxy: the last entry is its own, whatever the client has put before it.
        (["192.0.2.0/24"], 1, THERE, HERE, True),
        (["192.0.2.0/24"], 1, HERE, THERE, False),
        (["192.0.2.0/24"], 1, THERE, f"{HERE}, {THERE}", False),
        (["192.0.2.0/24"], 1, THERE, f"{HERE},{HERE},{THERE}", False),
        (["192.0.2.0/24"], 1, THERE, f"{THERE}, {HERE}", True),
        (["192.0.2.0/24"], 2, THERE, f"{THERE}, {HERE}, 10.0.0.1", True),
        (["192.0.2.0/24"], 2, THERE, f"{HERE}, {THERE}, 10.0.0.1", False),
        (["192.0.2.0/24"], 1, HERE, None, False),  # past the proxy
        (["192.0.2.0/24"], 2, HERE, HERE, False),
        (["192.0.2.0/24"], 1, THERE, "unknown", False),
        ([], 1, THERE, "garbage, \x00", True),
    ],
)
def test_a_key_works_from_its_ip_ranges_only_and_no_header_can_pretend(
    settings, user, ranges, proxies, connected, forwarded, is_let_in
):
    settings.TRUSTED_PROXIES = proxies
    key, secret = ApiKey.issue(user, "shop", allowed_ip_ranges=ranges)
    more = {} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded}

    response = Client(REMOTE_ADDR=connected, **more).get(LIST, headers=bearer(secret))

    assert response.status_code == (200 if is_let_in else 401)
    key.refresh_from_db()
    assert (key.last_used_at is not None) == is_let_in
    if not is_let_in:
        wrong = Client().get(LIST, headers=bearer("wrong"))
        assert (response.content, response["WWW-Authenticate"]) == (wrong.content, wrong["WWW-Authenticate"])


@pytest.mark.parametrize(
    "text", ["", "192.0.2.0/33", "192.0.2.7/24", "localhost", "192.0.2", "2001:db8::/129", "a" * 50]
)
def test_what_is_no_ip_range_is_refused(user, text):
    with pytest.raises(ValidationError):
        ApiKey.issue(user, "shop", allowed_ip_ranges=[text])


# --- the end of a key -------------------------------------------------------------------------------------------------


def test_a_key_works_until_it_expires(user):
    key, secret = ApiKey.issue(user, "shop", expires_at=timezone.now() + timedelta(hours=1))
    assert status_with(secret) == 200

    ApiKey.objects.filter(pk=key.pk).update(expires_at=Now())

    assert status_with(secret) == 401


def test_a_key_that_would_have_expired_already_is_not_made(user):
    with pytest.raises(ValidationError):
        ApiKey.issue(user, "shop", expires_at=timezone.now() - timedelta(seconds=1))


REVOKE = "from smsportal.models import ApiKey; print(ApiKey.objects.get().revoke())"


@pytest.mark.django_db(transaction=True)
def test_a_key_revoked_in_one_process_is_refused_in_the_next_request_of_another(user):
    _, secret = ApiKey.issue(user, "shop")
    assert status_with(secret) == 200
    in_tests = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()

    said = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "shell", "--verbosity=0", "--command", REVOKE],
        env=os.environ | {"DATABASE_URL": in_tests},
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.strip() == "True"
    assert status_with(secret) == 401


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_a_rotated_key_and_the_new_one_both_work_with_the_same_rights(user):
    rights = {"scopes": ["read"], "allowed_sender_ids": ["SHOP"], "allowed_ip_ranges": ["127.0.0.0/8"]}
    old, old_secret = ApiKey.issue(user, "shop", may_act_for_others=True, **rights)

    new, new_secret = old.rotate()

    assert new_secret != old_secret
    assert status_with(old_secret) == status_with(new_secret) == 200
    new.refresh_from_db()
    assert {name: getattr(new, name) for name in rights} == rights
    assert (new.user, new.name, new.may_act_for_others, new.replaces) == (user, "shop", True, old)
    assert new.expires_at is None
    assert timedelta(hours=23) < time_left(old) <= timedelta(hours=24)


def test_a_key_rotated_without_delay_ends_at_once(user):
    old, old_secret = ApiKey.issue(user, "shop")

    _, new_secret = old.rotate(timedelta(0))

    assert (status_with(old_secret), status_with(new_secret)) == (401, 200)


def test_a_new_key_lasts_as_long_as_the_old_one_was_made_to_which_does_not_outlive_its_own_end(user):
    old, _ = ApiKey.issue(user, "shop", expires_at=timezone.now() + timedelta(days=90))
    ApiKey.objects.update(created_at=Now() - timedelta(days=89), expires_at=Now() + timedelta(hours=1))

    new, _ = old.rotate(timedelta(days=7))

    assert time_left(old) <= timedelta(hours=1)
    assert timedelta(days=88) < time_left(new) < timedelta(days=90)


@pytest.mark.django_db(transaction=True)
def test_of_many_rotations_at_once_one_wins(user):
    key, _ = ApiKey.issue(user, "shop")

    results = at_once(8, lambda _: ApiKey.objects.get(pk=key.pk).rotate())

    assert sum(isinstance(result, KeyHasEnded) for result in results) == 7
    assert ApiKey.objects.count() == 2


def test_what_has_ended_is_not_rotated_back_to_life(user):
    key, _ = ApiKey.issue(user, "shop")
    key.revoke()

    with pytest.raises(KeyHasEnded):
        key.rotate()

    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("keep", [timedelta(seconds=-1), timedelta(days=31)])
def test_a_replaced_key_does_not_live_on_for_ever(user, keep):
    key, _ = ApiKey.issue(user, "shop")

    with pytest.raises(ValueError, match="30 days"):
        key.rotate(keep)


# --- PROMISES.md, section 4, A1 to A3: the answers are compared in test_api.py ----------------------------------------


def test_a_key_in_the_address_is_refused_and_written_into_no_log(user, caplog):
    _, secret = ApiKey.issue(user, "shop")
    _, test_secret = ApiKey.issue(user, "shop", is_test=True)
    caplog.set_level("DEBUG")

    for key in (secret, test_secret):
        assert Client().get(f"{LIST}?api_key={key}", headers=bearer(secret)).status_code == 401
    Client().get(LIST, headers=bearer(secret + "x"))

    assert secret not in caplog.text
    assert test_secret not in caplog.text


def test_a_nearly_right_key_is_looked_for_just_as_a_wholly_wrong_one(user):
    _, secret = ApiKey.issue(user, "shop")
    nearly = secret[:-1] + ("A" if secret[-1] != "A" else "B")

    def asked(key):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert status_with(key) == 401
        looked = [query["sql"] for query in queries if "smsportal_apikey" in query["sql"]]
        return [re.sub(r"[0-9a-f]{64}", "DIGEST", sql) for sql in looked]

    assert asked(nearly) == asked("wrong") == asked("sms_" + "A" * 43)
    assert len(asked(nearly)) == 1
    # 256 bits of chance, and nothing but their SHA-256 to compare with.
    assert len(re.fullmatch(r"sms_([A-Za-z0-9_-]{43})", secret)[1]) * 6 >= 256
    assert nearly[:12] == secret[:12]


# --- the command ------------------------------------------------------------------------------------------------------


def make(*words):
    out = StringIO()
    call_command("create_api_key", *words, stdout=out)
    return out.getvalue().strip()


def test_the_command_makes_a_key_with_the_rights_it_is_told(user):
    secret = make(
        *("amina", "--name", "shop", "--scope", "send", "--scope", "read", "--expires", "2999-01-01T00:00:00Z"),
        *("--sender-id", "SHOP", "--ip-range", "192.0.2.0/24", "--ip-range", "2001:db8::/32"),
    )

    key = ApiKey.objects.get(digest=ApiKey.digest_of(secret))
    assert (key.scopes, key.allowed_sender_ids) == (["send", "read"], ["SHOP"])
    assert key.allowed_ip_ranges == ["192.0.2.0/24", "2001:db8::/32"]
    assert key.expires_at == datetime(2999, 1, 1, tzinfo=UTC)


def test_the_command_rotates_a_key_by_its_beginning(user):
    old = make("amina", "--name", "shop", "--scope", "read")

    new = make("amina", "--replaces", old[:12], "--keep-hours", "1")

    assert status_with(old) == status_with(new) == 200
    first, second = ApiKey.objects.order_by("pk")
    assert (second.replaces, second.scopes) == (first, ["read"])
    assert time_left(first) <= timedelta(hours=1)
    with pytest.raises(CommandError, match="replaced before"):
        make("amina", "--replaces", old[:12])


@pytest.mark.parametrize(
    "words",
    [
        ["nobody", "--name", "x"],
        ["amina"],
        ["amina", "--name", ""],
        ["amina", "--name", "x" * 65],
        ["amina", "--name", "x", "--replaces", "sms_12345678"],
        ["amina", "--replaces", "sms_12345678"],
        ["amina", "--name", "x", "--keep-hours", "1"],
        ["amina", "--replaces", "sms_12345678", "--scope", "send"],
        ["amina", "--name", "x", "--scope", "all"],
        ["amina", "--name", "x", "--ip-range", "here"],
        ["amina", "--name", "x", "--expires", "tomorrow"],
        ["amina", "--name", "x", "--expires", "2020-01-01T00:00:00Z"],
        ["amina", "--name", "x", "--test", "--act-for-others"],
    ],
)
def test_the_command_refuses_what_cannot_be_meant(user, words):
    with pytest.raises(CommandError):
        make(*words)

    assert not ApiKey.objects.exists()


def test_the_command_rotates_no_other_users_key(user):
    old = make("amina", "--name", "shop")
    UserFactory(username="brian")

    with pytest.raises(CommandError):
        make("brian", "--replaces", old[:12])


def test_a_key_is_revoked_by_command_at_once_and_only_the_one_that_is_meant(user, capsys):
    key, secret = ApiKey.issue(user, "shop")
    _, other = ApiKey.issue(user, "other")
    tested, test_secret = ApiKey.issue(user, "trial", is_test=True)

    for words in ((user.username, "sms_nothing0"), ("nobody", key.hint)):
        with pytest.raises(CommandError, match=r"0 keys|no user"):
            call_command("revoke_api_key", *words)
    call_command("revoke_api_key", user.username, f"{key.hint}…")
    call_command("revoke_api_key", user.username, key.hint)
    call_command("revoke_api_key", user.username, tested.hint)

    assert "It was revoked before." in capsys.readouterr().out
    assert [status_with(one) for one in (secret, other, test_secret)] == [401, 200, 401]
