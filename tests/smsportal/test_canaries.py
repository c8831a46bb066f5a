"""Private words in every field that takes some, and all is done with them that can be: none turns up elsewhere.

Texts, numbers, keys and passwords belong into the database, to the provider and onto the pages of those who may see
them; never into a log line, a mail, the admin's history, a figure, a notice to the staff or an error.
"""

import json
import re

import pytest
from django.contrib.admin.models import LogEntry
from django.core import mail
from django.test import Client
from django.urls import reverse

from outbox.dispatch import Dispatcher
from outbox.models import Attempt, Outbox, ProviderState, Receipt
from smsportal.models import ApiKey, Notice, User
from tests.database import whole_database
from tests.outbox.gateway import Gateway, answer

NUMBER = "+254711987654"
PRIVATE = {
    "recipientPhoneNumber": NUMBER,
    "message": "Your code is CANARY-text",
    "senderId": "CANARY-from",
    "messageId": "CANARY-id",
    "messageName": "CANARY-name",
    "tags": ["CANARY-tag"],
    "customData": {"CANARY-field": "CANARY-value"},
}
TOKEN = "CANARY-receipt-token"
PASSWORD = "CANARY-password-7"
ANY = re.compile("canary|711987654", re.IGNORECASE)


@pytest.fixture
def gateway():
    """Repeats the whole request in its answer, credentials included, with the status that is set."""
    with Gateway(b"") as gateway:
        gateway.status = 400

        def echo(sock):
            request = gateway.requests[-1]
            words = json.dumps({"error": f"{request.headers} {request.body.decode()} {request.target}"})
            where = {"Location": f"http://elsewhere.example/{NUMBER}?CANARY"} if gateway.status == 302 else {}
            sock.sendall(answer(gateway.status, words, **where))

        gateway.says = echo
        yield gateway


@pytest.fixture
def provider(gateway, settings, account):
    options = {
        "url": f"{gateway.url}?user=CANARY-user",
        "headers": {"Authorization": "CANARY-credentials", "Connection": "close"},
        "json": {"to": "{recipient}", "text": "{text}", "from": "{sender_id}", "reference": "{reference}"},
        "accepted": {"status": [200]},
        "rejected": {"status": [400]},
        "receipt_token": TOKEN,
        "receipt": {
            "reference": "/reference",
            "status": "/status",
            "delivered": ["yes"],
            "undelivered": ["no"],
            "in_transit": [],
        },
    }
    settings.SMS_PROVIDERS = {"acme": {"BACKEND": "outbox.providers.http.Provider", "OPTIONS": options}}
    from outbox.providers import get_provider

    get_provider.cache_clear()
    yield get_provider("acme")
    get_provider.cache_clear()


@pytest.fixture
def secret(account):
    _, secret = ApiKey.issue(account.user, "shop")
    account.user.set_password(PASSWORD)
    account.user.save()
    return secret


def drain():
    Dispatcher(concurrency=2).run(once=True)


def by_api(secret):
    api = Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=False)

    def post(path, body, **headers):
        return api.post(path, json.dumps(body), content_type="application/json", headers=headers)

    sent = post("/api/sms/send", PRIVATE | {"senderId": "MYBRAND"}, **{"Idempotency-Key": "CANARY-key"}).json()
    post("/api/sms/send", PRIVATE | {"tags": ["OTP"], "messageId": "CANARY-2", "senderId": "MYBRAND"})
    post("/api/sms/send", PRIVATE, **{"Idempotency-Key": "CANARY-key"})  # another body: 422
    post("/api/sms/send", PRIVATE | {"CANARY-unknown": NUMBER, "recipientPhoneNumber": "CANARY"})
    post("/api/sms/send", PRIVATE | {"maxTotalCost": 0.01})
    post("/api/sms/quote", PRIVATE)
    drain()
    post("/api/sms/outbox/resend", {"outboxId": sent["outboxId"], "CANARY": NUMBER})
    post("/api/sms/outbox/resend", {"outboxId": sent["outboxId"]})
    api.get(f"/api/sms/outbox?recipientPhoneNumber={NUMBER}&tag=CANARY&CANARY={NUMBER}")
    api.get(f"/api/sms/outbox/{NUMBER}")
    api.get(f"/api/sms/outbox?api_key={secret}")
    Client().get("/api/sms/outbox", headers={"Authorization": f"Bearer {secret}CANARY", "X-Request-Id": secret})
    return sent["outboxId"]


def by_pages(outbox_id):
    browser = Client(raise_request_exception=False)
    for name in ("amina", f"CANARY-{NUMBER}"):
        browser.post("/login/", {"username": name, "password": "CANARY-wrong"})
    browser.post("/login/", {"username": "amina", "password": PASSWORD})
    once = re.search(r'name="once" value="([^"]+)"', browser.get("/outbox/new/").content.decode())[1]
    form = {
        "recipient": NUMBER,
        "text": PRIVATE["message"],
        "once": once,
        "tags": "CANARY-tag",
        "message_name": "CANARY",
    }
    browser.post("/outbox/new/", form)
    browser.post("/outbox/new/", form | {"recipient": "CANARY"})
    browser.get(f"/outbox/?recipient={NUMBER}&tag=CANARY")
    browser.get(f"/outbox/{outbox_id}/")
    browser.get(f"/{NUMBER}/CANARY")
    stranger = Client(enforce_csrf_checks=True)
    stranger.post("/login/", {"password": PASSWORD}, headers={"Referer": "http://canary.example/"})
    new = PASSWORD + "x"
    browser.post("/account/password/", {"old_password": PASSWORD, "new_password1": new, "new_password2": new})


def by_staff(admin_site):
    admin = "/admin/outbox/outbox/"
    admin_site.get(f"{admin}?q={NUMBER}")
    admin_site.get(f"{admin}?q=CANARY&text__contains=CANARY")
    failed = Outbox.objects.filter(status="failed").earliest("created_at")
    admin_site.get(reverse("admin:outbox_outbox_change", args=[failed.pk]))
    admin_site.post(
        f"{admin}resend/", {"previewed": f"{failed.pk}/{failed.retry_count}", "reason": "the customer asked"}
    )
    drain()
    Attempt.objects.update(lease_expires_at=None) if False else None
    unknown = Outbox.objects.filter(outcome="unknown").earliest("created_at")
    form = {"cases": f"{unknown.pk}/{unknown.attempt_count}", "verdict": "not_sent", "reason": "ticket 17"}
    admin_site.post(reverse("admin:outbox_unknownoutcome_settle"), form)
    admin_site.post(reverse("admin:smsportal_apikey_add"), {"user": unknown.user_id, "name": "the shop"})
    admin_site.post(
        reverse("admin:smsportal_user_add"), {"username": "new", "password1": PASSWORD, "password2": PASSWORD}
    )
    user = User.objects.get(username="amina")
    change = reverse("admin:auth_user_password_change", args=[user.pk])
    admin_site.post(change, {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD})


def by_provider(outbox_id):
    door = f"/api/providers/acme/receipts/{TOKEN}"
    receipt = json.dumps({"reference": outbox_id, "status": f"CANARY {NUMBER}"})
    for path in (door, f"{door}CANARY", f"{door}/CANARY"):
        for body in (receipt, "CANARY", "[" * 100):
            Client(raise_request_exception=False).post(path, body, content_type="application/json")
        Client(raise_request_exception=False).put(path)


def by_mistakes_of_ours(secret, monkeypatch):
    """Errors whose words hold what was being worked on, as those of PostgreSQL do."""

    def broken(*args, **kwargs):
        raise RuntimeError(f"{args} {kwargs} {PRIVATE} {secret}")

    client = Client(headers={"Authorization": f"Bearer {secret}"}, raise_request_exception=False)
    with monkeypatch.context() as patch:
        patch.setattr("outbox.sending.send", broken)
        answers = [client.post("/api/sms/send", json.dumps(PRIVATE), content_type="application/json")]
        patch.setattr("outbox.views.entry_or_404", broken)
        answers.append(client.get(f"/api/sms/outbox/{NUMBER}CANARY"))
        patch.setattr("outbox.receipts.apply", broken)
        body = '{"reference": "x", "status": "CANARY"}'
        door = f"/api/providers/acme/receipts/{TOKEN}"
        answers.append(client.post(door, body, content_type="application/json"))
        patch.setattr("outbox.pages._slice", broken)
        browser = Client(raise_request_exception=False)
        browser.force_login(User.objects.get(username="amina"))
        answers.append(browser.get(f"/outbox/?recipient={NUMBER}"))
        patch.setattr("outbox.providers.http.Provider.send", broken)
        drain()
    assert [answer.status_code for answer in answers] == [500, 500, 500, 500]
    return b"".join(answer.content for answer in answers).decode()


def test_no_private_word_turns_up_where_it_does_not_belong(
    provider, gateway, account, secret, admin_site, lines, monkeypatch
):
    account.user.default_sender_id = "MYBRAND"
    account.user.save()
    outbox_id = by_api(secret)
    by_pages(outbox_id)
    gateway.status = 500  # unknown
    drain()
    by_staff(admin_site)
    by_provider(outbox_id)
    errors = by_mistakes_of_ours(secret, monkeypatch)
    ProviderState.objects.update(worked_at=None)  # one refusal is enough to pause it, and the staff are told
    for gateway.status in (302, 401):
        client = Client(headers={"Authorization": f"Bearer {secret}"})
        message = json.dumps({"recipientPhoneNumber": NUMBER, "message": PRIVATE["message"]})
        assert client.post("/api/sms/send", message, content_type="application/json").status_code == 201
        drain()

    # It has all been somewhere: else nothing of this proves anything.
    assert {request.headers["authorization"] for request in gateway.requests} == {"CANARY-credentials"}
    assert Outbox.objects.filter(recipient=NUMBER, text=PRIVATE["message"]).count() >= 3
    assert set(Outbox.objects.values_list("status", flat=True)) >= {"failed", "pending"}
    assert Receipt.objects.exists()
    assert Notice.objects.exists()
    assert {line["level"] for line in lines()} >= {"info", "warning", "error"}
    assert LogEntry.objects.count() >= 4
    places = {
        "log": [json.dumps(line, ensure_ascii=False) for line in lines()],
        "mail": [str(message.message()) for message in mail.outbox],
        "history": [str(entry) for entry in LogEntry.objects.values_list("object_repr", "change_message")],
        "figures": Client().get("/metrics").content.decode().splitlines(),
        "notices": list(Notice.objects.values_list("text", flat=True)),
        "errors": [errors],
        "repr": [repr(row) + str(row) for model in (Outbox, Attempt, Receipt, ApiKey) for row in model.objects.all()],
    }
    assert {
        place: [text for text in texts if ANY.search(text) or secret in text] for place, texts in places.items()
    } == {place: [] for place in places}


def test_keys_passwords_and_the_providers_secrets_are_stored_nowhere(provider, account, secret):
    outbox_id = by_api(secret)
    by_pages(outbox_id)
    by_provider(outbox_id)

    stored = whole_database()
    for private in (secret, PASSWORD, TOKEN, "CANARY-wrong"):
        assert private not in stored
