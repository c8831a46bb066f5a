"""The API's plumbing: who is let in, and that every error is problem+json."""

import json
from datetime import timedelta

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from outbox.filters import OutboxFilter
from smsportal.models import ApiKey
from tests.factories import UserFactory

LIST = "/api/sms/outbox"


def problem_of(response):
    assert response["Content-Type"] == "application/problem+json"
    problem = json.loads(response.content)
    assert {"type", "title", "status", "detail", "code"} <= set(problem)
    assert problem["status"] == response.status_code
    return problem


def test_only_a_digest_of_a_key_is_stored(user):
    key, secret = ApiKey.issue(user, "shop")

    stored = " ".join(str(value) for value in ApiKey.objects.values_list()[0])
    assert len(secret) >= 40
    assert secret not in stored
    assert secret.startswith(key.hint)


def test_all_who_are_not_let_in_get_the_same_answer(user):
    _, secret = ApiKey.issue(user, "shop")
    expired, expired_secret = ApiKey.issue(user, "old")
    revoked, revoked_secret = ApiKey.issue(user, "gone")
    ApiKey.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    ApiKey.objects.filter(pk=revoked.pk).update(revoked_at=timezone.now())
    inactive = UserFactory(is_active=False)
    _, inactive_secret = ApiKey.issue(inactive, "x")
    headers = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {secret}"},
        {"Authorization": f"Bearer {secret}x"},
        {"Authorization": f"Bearer {secret},Bearer {secret}"},
        {"Authorization": f"Bearer {expired_secret}"},
        {"Authorization": f"Bearer {revoked_secret}"},
        {"Authorization": f"Bearer {inactive_secret}"},
        {"Authorization": "Bearer \udcff\x00"},
    ]

    answers = [Client().get(LIST, headers=header) for header in headers]
    answers.append(Client().get(f"{LIST}?api_key={secret}"))
    answers.append(Client().get(f"{LIST}?k={secret}", headers={"Authorization": f"Bearer {secret}"}))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert all(answer["WWW-Authenticate"].startswith("Bearer") for answer in answers)
    assert problem_of(answers[0])["code"] == "unauthorized"
    assert Client().get(LIST, headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_a_keys_use_is_noted_to_the_minute(client_of, user):
    client_of(user).get(LIST)

    assert ApiKey.objects.get().last_used_at is not None


def test_the_sites_session_needs_its_csrf_token(user):
    browser = APIClient(enforce_csrf_checks=True)
    browser.force_login(user)

    assert browser.get(LIST).status_code == 200
    refused = browser.post("/api/sms/send", {"recipientPhoneNumber": "+254711000001", "message": "x"})
    assert problem_of(refused)["code"] == "forbidden"
    assert refused.status_code == 403


@pytest.mark.parametrize(
    "path", ["/api", "/api/", "/api/nothing", "/api/sms/", "/api/sms/outbox/x/y", "/api/%00", "/api/sms/send/"]
)
def test_a_path_that_is_not_there_is_a_404_problem(db, path):
    assert problem_of(Client().get(path))["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/sms/send"),
        ("PUT", "/api/sms/outbox/resend"),
        ("GET", "/api/sms/outbox/resend/"),
        ("DELETE", LIST),
        ("OPTIONS", LIST),
        ("TRACE", "/api/sms/send"),
        ("PATCH", "/api/billing/balance"),
        ("PUT", "/api/providers/locmem/receipts/x"),
    ],
)
def test_another_method_is_a_405_problem_that_names_those_allowed(client_of, user, method, path):
    response = client_of(user).generic(method, path)

    if path.endswith("/"):
        assert problem_of(response)["code"] == "not_found"
    else:
        assert problem_of(response)["code"] == "method_not_allowed"
        assert response["Allow"]


def test_a_wrong_host_is_a_400_problem(db):
    response = Client(headers={"Host": "evil.example"}).get(LIST)

    assert problem_of(response)["code"] == "invalid"


@pytest.mark.parametrize("where", ["smsportal.api.authentication.ApiKeyAuthentication.authenticate"])
def test_a_mistake_of_ours_is_a_500_problem_without_a_trace(db, monkeypatch, where):
    def broken(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(where, broken)

    response = Client(raise_request_exception=False).get(LIST)

    assert problem_of(response)["code"] == "internal_error"
    assert b"secret detail" not in response.content


def test_a_database_that_is_down_is_a_503_problem_that_says_when_to_come_back(db, monkeypatch):
    def down(*_):
        raise OperationalError("connection refused")

    monkeypatch.setattr("smsportal.api.authentication.ApiKeyAuthentication.authenticate", down)

    response = Client(raise_request_exception=False).get(LIST)

    assert problem_of(response)["code"] == "unavailable"
    assert int(response["Retry-After"]) <= 2


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "*/*", "garbage"])
def test_the_api_speaks_json_whatever_is_asked_for(client_of, user, accept):
    response = client_of(user).get(f"{LIST}", headers={"Accept": accept})

    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


def test_nothing_private_is_cached_and_nobody_else_may_read_it(client_of, user):
    response = client_of(user).get(LIST, headers={"Origin": "https://evil.example"})

    assert "no-store" in response["Cache-Control"]
    assert "Access-Control-Allow-Origin" not in response
    assert "frame-ancestors 'none'" in response["Content-Security-Policy"]
    assert "unsafe" not in response["Content-Security-Policy"]


def test_the_schema_describes_every_path_and_its_errors(db):
    import yaml

    schema = yaml.safe_load(Client().get("/api/schema").content)

    assert set(schema["paths"]) == {
        "/api/sms/send",
        "/api/sms/outbox",
        "/api/sms/quote",
        "/api/sms/outbox/export",
        "/api/sms/outbox/resend",
        "/api/sms/outbox/{outboxId}",
        "/api/sms/outbox/{outboxId}/cancel",
        "/api/billing/balance",
        "/api/billing/statement",
        "/api/billing/prices",
        "/api/alerts",
        "/api/alerts/settings",
        "/api/alerts/{alertId}/read",
        "/api/webhooks",
        "/api/webhooks/{webhookId}",
        "/api/webhooks/{webhookId}/enable",
        "/api/webhooks/{webhookId}/test",
        "/api/webhooks/{webhookId}/deliveries",
        "/api/webhooks/{webhookId}/deliveries/{deliveryId}/replay",
    }
    assert set(schema["paths"]["/api/sms/send"]["post"]["responses"]) >= {
        "200",
        "201",
        "400",
        "401",
        "402",
        "409",
        "422",
    }
    described = {parameter["name"] for parameter in schema["paths"]["/api/sms/outbox"]["get"]["parameters"]}
    assert described == {*OutboxFilter.base_filters, "userId", "pageSize", "cursor"}
    assert Client().get("/api/docs").status_code == 200


def test_the_balance_tells_what_is_there_held_and_left(api, account):
    from billing import ledger

    ledger.hold(account, account.balance / 4, "m/0")

    assert api.get("/api/billing/balance").json() == {
        "balance": 10.0,
        "held": 2.5,
        "available": 7.5,
        "currency": "KES",
        "unitsLeft": 7,
        "lowBalanceThreshold": 1.0,
    }
