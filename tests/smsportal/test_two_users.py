"""Two users: whatever of one the other asks for, by API or page, is as unknown as what nobody has."""

import json
import re
import uuid
from decimal import Decimal

import pytest
from django.test import Client

from billing import ledger
from outbox import sending
from outbox.models import Outbox
from smsportal.models import ApiKey, Notice, WebhookDelivery, WebhookEndpoint
from smsportal.webhooks import events
from tests.database import whole_database
from tests.factories import UserFactory
from tests.routes import address, routes

# Each names itself by a secret or a token in its address, not by who asks.
NOT_OF_USERS = {"api/providers/<str:provider>/receipts/<str:token>"}
OF_USERS = sorted(
    route for route in routes() if "<" in route and not route.startswith("admin/") and route not in NOT_OF_USERS
)
LISTS = sorted(
    route
    for route in routes()
    if "<" not in route and not re.match(r"admin/|api/(schema|docs|errors)|healthz|readyz|metrics", route)
)
TOKEN = re.compile(rb'name="csrfmiddlewaretoken" value="[^"]*"')  # masked anew each time
NOBODYS_UUID, NOBODYS_NUMBER = uuid.UUID("01a20fb9-0000-7000-8000-000000000000"), 10**9


def rows_of(user):
    """The id of one of everything that this user has, by the names in addresses."""
    endpoint = WebhookEndpoint.objects.filter(user=user).get()
    entry = Outbox.objects.filter(user=user).get()
    return {
        "outbox_id": entry.pk,
        "outboxId": entry.pk,
        "alertId": Notice.objects.filter(user=user)[0].pk,
        "webhookId": endpoint.pk,
        "deliveryId": WebhookDelivery.objects.filter(endpoint=endpoint).get().pk,
        "key_id": ApiKey.objects.filter(user=user)[0].pk,
    }


NOBODYS = {
    "outbox_id": NOBODYS_UUID,
    "outboxId": NOBODYS_UUID,
    "alertId": NOBODYS_NUMBER,
    "webhookId": NOBODYS_UUID,
    "deliveryId": NOBODYS_UUID,
    "key_id": NOBODYS_NUMBER,
}


@pytest.fixture
def asking(account):
    """The user who asks, with a message that fails as the other's does."""
    user = UserFactory(username="omar")
    ledger.top_up(ledger.account_of(user), Decimal(5), reason="payment")
    sending.send(user, recipient="+254722000002", text="My own")
    return user


@pytest.fixture
def theirs(asking, one_of_each, account):
    """What somebody else has."""
    Outbox.objects.filter(user=account.user).update(
        message_id="order-7781", custom_data={"linkedTransactionId": "txn789"}, tags=["private"]
    )
    ApiKey.issue(account.user, "app")
    return rows_of(account.user)


@pytest.fixture
def mine(asking, theirs):
    """What the user has who asks."""
    events.record_test(WebhookEndpoint.objects.create(user=asking, url="https://mine.example/", events=["sms.sent"]))
    ApiKey.issue(asking, "mine")
    return rows_of(asking)


@pytest.fixture
def doors(asking, client_of):
    """The user who asks, by key and by the site's session, each seen once before."""
    browser = Client()
    browser.force_login(asking)
    by_key = client_of(asking)
    by_key.get("/api/sms/outbox")
    return [by_key, browser]


def told(answer):
    """All that an answer tells, but for what differs between any two."""
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    headers = {name: value for name, value in answer.headers.items() if name not in ("Expires", "Set-Cookie")}
    return answer.status_code, headers, TOKEN.sub(b"", content)


def of_route(route, doors):
    """The doors that lead there: pages know no keys."""
    return doors if route.startswith("api/") else doors[1:]


def names_in(route):
    return re.findall(r"<(?:\w+:)?(\w+)>", route)


@pytest.mark.parametrize("route", OF_USERS)
def test_anothers_id_is_answered_as_one_that_nobody_has(doors, theirs, mine, route):
    before = whole_database()

    for door in of_route(route, doors):
        for method in ("GET", "POST", "DELETE", "PATCH"):
            # One of the ids in the address is not one's own, or all are.
            for strange in ({name} for name in names_in(route)), (set(names_in(route)),):
                for names in strange:
                    anothers, nobodys = (
                        told(door.generic(method, address(route, **mine | {name: of[name] for name in names})))
                        for of in (theirs, NOBODYS)
                    )
                    assert anothers == nobodys, (method, names)
                    assert anothers[0] in (404, 405), (method, names)

    assert whole_database() == before


@pytest.mark.parametrize("route", OF_USERS)
def test_ones_own_is_found(doors, mine, route):
    found = {
        door.generic(method, address(route, **mine)).status_code
        for door in doors
        for method in ("GET", "POST", "DELETE")
    }

    assert found & {200, 201, 204, 409}, found  # 409: found, and not in a state for that


@pytest.mark.parametrize("route", LISTS)
def test_nothing_of_anothers_is_in_any_list_page_or_export(doors, theirs, account, route):
    private = {str(found) for name, found in theirs.items() if name not in ("alertId", "key_id")}
    private |= {"order-7781", "txn789", "+254711000001", "amina", str(account.user_id), "hooks.example"}

    for door in of_route(route, doors):
        seen = told(door.get(f"/{route}", follow=True))[2].decode()
        assert [word for word in private if word in seen] == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/sms/outbox/resend", lambda ids, user: {"outboxId": str(ids["outboxId"])}),
        ("/api/sms/send", lambda ids, user: {"userId": user, "recipientPhoneNumber": "+254711000001", "message": "x"}),
        ("/api/sms/quote", lambda ids, user: {"userId": user, "recipientPhoneNumber": "+254711000001", "message": "x"}),
    ],
)
def test_anothers_id_in_a_body_is_answered_as_one_that_nobody_has(doors, theirs, account, path, body):
    before = whole_database()

    for door in doors:
        anothers, nobodys = (
            told(door.post(path, json.dumps(body(ids, str(user))), content_type="application/json"))
            for ids, user in ((theirs, account.user_id), (NOBODYS, NOBODYS_UUID))
        )
        assert anothers == nobodys
        assert anothers[0] in (403, 404)

    assert whole_database() == before


@pytest.mark.parametrize("path", ["/api/sms/outbox", "/api/sms/outbox/export"])
@pytest.mark.parametrize(
    ("name", "theirs_is", "nobodys_is"),
    [
        ("messageId", "order-7781", "order-7782"),
        ("linkedTransactionId", "txn789", "txn790"),
        ("tag", "private", "privatf"),
        ("recipientPhoneNumber", "+254711000001", "+254711000003"),
        ("userId", None, str(NOBODYS_UUID)),
    ],
)
def test_no_filter_finds_what_is_anothers(doors, theirs, account, path, name, theirs_is, nobodys_is):
    for door in doors:
        anothers, nobodys = (
            told(door.get(path, {name: value})) for value in (theirs_is or str(account.user_id), nobodys_is)
        )
        assert anothers == nobodys
        assert str(theirs["outboxId"]).encode() not in anothers[2]


def test_a_cursor_of_anothers_list_leads_through_ones_own(doors, client_of, account, theirs, mine):
    sending.send(account.user, recipient="+254711000001", text="x")
    cursor = client_of(account.user).get("/api/sms/outbox?pageSize=1").json()["next"]

    for door in doors:
        assert {entry["outboxId"] for entry in door.get(cursor).json()["results"]} <= {str(mine["outboxId"])}
