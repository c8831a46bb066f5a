"""The OpenAPI document: complete enough to read nothing else, and true."""

import io
import json
from datetime import timedelta
from decimal import Decimal

import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import validate

from billing import ledger
from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.providers.base import Rejected
from smsportal.api.problems import CONTENT_TYPE, KINDS
from smsportal.api.schema import COMMON

JSON = "application/json"


def drain():
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def schema(db):
    return yaml.safe_load(Client().get("/api/schema").content)


def operations(schema):
    return {operation["operationId"]: operation for path in schema["paths"].values() for operation in path.values()}


def examples_of(content):
    return [example["value"] for example in content.get("examples", {}).values()]


def test_the_document_is_made_without_a_warning_and_is_one_by_the_standard(schema):
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=io.StringIO())

    validate(schema)


def test_everything_is_described(schema):
    for name, component in schema["components"]["schemas"].items():
        assert "enum" in component or component["description"], name
        for member, described in component.get("properties", {}).items():
            assert described.get("description"), f"{name}.{member}"
    for name, operation in operations(schema).items():
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= {tag["name"] for tag in schema["tags"]}, name
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], f"{name}: {parameter['name']}"
        for status, response in operation["responses"].items():
            assert response["description"], f"{name}: {status}"
            assert response["headers"]["X-Request-Id"]["description"], f"{name}: {status}"


def test_every_call_lists_its_errors_and_every_error_is_listed(schema):
    listed = {
        name: {
            example["code"]
            for response in operation["responses"].values()
            for example in examples_of(response.get("content", {}).get(CONTENT_TYPE, {}))
        }
        for name, operation in operations(schema).items()
    }

    assert all(set(COMMON) <= codes for codes in listed.values())
    assert set().union(*listed.values()) == set(KINDS)
    assert set(schema["components"]["schemas"]["CodeEnum"]["enum"]) == set(KINDS)
    for operation in operations(schema).values():
        for status, response in operation["responses"].items():
            for example in examples_of(response.get("content", {}).get(CONTENT_TYPE, {})):
                assert str(example["status"]) == status
                assert f"`{example['code']}`" in response["description"]


def test_every_body_and_every_answer_has_an_example_that_its_schema_allows(schema):
    for name, operation in operations(schema).items():
        answers = operation["responses"].values()
        for part in (operation.get("requestBody", {}), *answers):
            for content in part.get("content", {}).values():
                validator = OAS30Validator({**content["schema"], "components": schema["components"]})
                assert examples_of(content), name
                for example in examples_of(content):
                    assert [error.message for error in validator.iter_errors(example)] == [], name


def test_every_link_leads_to_a_call_with_parts_that_both_have(schema):
    found = operations(schema)

    for name, operation in found.items():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                parameters = {parameter["name"] for parameter in found[link["operationId"]].get("parameters", ())}
                assert set(link.get("parameters", {})) <= parameters, name
                assert link.get("parameters") or link.get("requestBody"), name


def shape(value):
    """The names in an answer, however deep; what users may fill in as they like is left out."""
    match value:
        case dict():
            return {name: shape(inner) for name, inner in value.items() if name != "customData"}
        case list():
            return [shape(value[0])] if value and isinstance(value[0], dict) else []
    return None


def sent(account, **fields):
    return sending.send(account.user, recipient="+254711000001", text="Your code is 4321", **fields)


@pytest.fixture
def failed(account, provider):
    provider.error = Rejected("unknown subscriber")
    entry = sent(account)
    drain()
    provider.error = None
    return entry


def test_examples_have_the_shape_of_real_answers(schema, api, account, failed, settings):
    settings.WEBHOOKS_TO_PRIVATE_ADDRESSES = True
    body = {"recipientPhoneNumber": "+254711000001", "message": "Hello"}
    alert = api.get("/api/alerts").json()["results"][0]["alertId"]
    webhook = api.post("/api/webhooks", {"url": "http://127.0.0.1:9/"}).json()
    hook = f"/api/webhooks/{webhook['webhookId']}"
    delivery = api.post(f"{hook}/test").json()
    answers = {
        "send": api.post("/api/sms/send", body).json(),
        "quote": api.post("/api/sms/quote", body).json(),
        "getOutboxEntry": api.get(f"/api/sms/outbox/{failed.pk}").json(),
        "listOutbox": api.get("/api/sms/outbox").json(),
        "resend": api.post("/api/sms/outbox/resend", {"outboxId": str(failed.pk)}).json(),
        "cancel": api.post(f"/api/sms/outbox/{sent(account).pk}/cancel").json(),
        "getBalance": api.get("/api/billing/balance").json(),
        "listStatement": api.get("/api/billing/statement").json(),
        "listPrices": api.get("/api/billing/prices").json(),
        "listAlerts": api.get("/api/alerts").json(),
        "readAlert": api.post(f"/api/alerts/{alert}/read").json(),
        "getAlertSettings": api.get("/api/alerts/settings").json(),
        "changeAlertSettings": api.patch("/api/alerts/settings", {}).json(),
        "createWebhook": webhook,
        "listWebhooks": api.get("/api/webhooks").json(),
        "getWebhook": api.get(hook).json(),
        "enableWebhook": api.post(f"{hook}/enable").json(),
        "testWebhook": delivery,
        "listWebhookDeliveries": api.get(f"{hook}/deliveries").json(),
        "replayWebhookDelivery": api.post(f"{hook}/deliveries/{delivery['deliveryId']}/replay").json(),
    }

    shown = {
        name: [
            example
            for status, response in operation["responses"].items()
            if status < "300"
            for example in examples_of(response.get("content", {}).get(JSON, {}))
        ]
        for name, operation in operations(schema).items()
    }
    assert {name for name, examples in shown.items() if examples} == set(answers)
    for name, answer in answers.items():
        for example in shown[name]:
            assert shape(example) == shape(answer), name
    csv = b"".join(api.get("/api/sms/outbox/export").streaming_content).decode()
    (example,) = examples_of(operations(schema)["exportOutbox"]["responses"]["200"]["content"]["text/csv"])
    assert example.splitlines()[0] == csv.splitlines()[0]


def test_examples_of_errors_have_the_members_of_real_ones(schema, api, account, failed, client_of, settings):
    waiting = sent(account, scheduled_at=timezone.now() + timedelta(hours=1))
    delivered = sent(account)
    drain()
    type(failed).objects.filter(pk=failed.pk).update(retry_count=3)
    body = {"recipientPhoneNumber": "+254711000001", "message": "Hello"}
    problems = [
        api.post("/api/sms/send", body | {"recipientPhoneNumber": "+254712"}),
        api.post("/api/sms/outbox/resend", {"outboxId": str(waiting.pk)}),
        api.post("/api/sms/outbox/resend", {"outboxId": str(failed.pk)}),
        api.post(f"/api/sms/outbox/{delivered.pk}/cancel"),
        api.post("/api/sms/send", body | {"maxTotalCost": 0.5}),
        api.post("/api/sms/send", body | {"message": "x" * 2000}),
    ]
    ledger.adjust(account, Decimal("-7.9"), reason="correction")
    problems.append(api.post("/api/sms/send", body))
    problems.append(client_of(account.user, scopes=["read"]).post("/api/sms/send", body))
    settings.SMS_DUPLICATE_GUARD = "refuse"
    problems += [api.post("/api/sms/send", body | {"message": "Twice"}) for _ in range(2)][1:]
    settings.SMS_RATE_LIMIT_PER_MINUTE = 1
    problems += [api.post("/api/sms/send", body | {"message": f"No. {number}"}) for number in range(2)][1:]

    shown = {
        example["code"]: shape(example)
        for operation in operations(schema).values()
        for response in operation["responses"].values()
        for example in examples_of(response.get("content", {}).get(CONTENT_TYPE, {}))
    }
    for problem in (json.loads(answer.content) for answer in problems):
        assert shown[problem["code"]] | {"requestId": None} == shape(problem)
    told = {json.loads(answer.content)["code"] for answer in problems}
    usual = set(shown["not_found"])
    assert told == {code for code, members in shown.items() if set(members) - usual}
