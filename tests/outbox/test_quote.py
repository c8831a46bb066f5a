"""What a message would cost, asked before it is sent."""

from decimal import Decimal

import pytest

from billing import ledger
from outbox.models import IdempotencyKey, Outbox
from tests.factories import PriceFactory

QUOTE, SEND = "/api/sms/quote", "/api/sms/send"
BODY = {"recipientPhoneNumber": "0711000001", "message": "Hello"}


def test_a_quote_says_cost_rule_and_what_is_left_and_stores_nothing(api, account, price):
    own = PriceFactory(user=account.user, prefix="2547", price_per_segment=Decimal("0.8125"))

    response = api.post(QUOTE, BODY | {"message": "don’t", "messageId": "m1"})

    assert response.status_code == 200
    assert response.json() == {
        "encoding": "UCS-2",
        "smsUnitsUsed": 1,
        "costPerUnit": 0.8125,
        "totalCost": 0.8125,
        "currency": "KES",
        "balanceAfter": 9.1875,
        "charactersForcingUcs2": ["’"],
        "priceRule": {"prefix": "+2547", "effectiveFrom": own.effective_from.isoformat().replace("+00:00", "Z")},
    }
    account.refresh_from_db()
    assert (Outbox.objects.count(), IdempotencyKey.objects.count(), account.held) == (0, 0, 0)


@pytest.mark.parametrize("text", ["x", "x" * 161, "€" * 80, "ж" * 71, "\N{GRINNING FACE}" * 36])
def test_what_is_quoted_is_what_is_charged(api, account, text):
    quoted = api.post(QUOTE, BODY | {"message": text}).json()
    sent = api.post(SEND, BODY | {"message": text}).json()

    for name in ("encoding", "smsUnitsUsed", "costPerUnit", "totalCost", "currency"):
        assert quoted[name] == sent[name]
    assert quoted["balanceAfter"] == api.get("/api/billing/balance").json()["available"]


def test_the_quote_of_what_cannot_be_paid_says_by_how_much(api, account):
    ledger.hold(account, Decimal("9.5"), "other/0")

    assert api.post(QUOTE, BODY).json()["balanceAfter"] == -0.5


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"recipientPhoneNumber": "12"}, 400, "invalid"),
        ({"message": ""}, 400, "invalid"),
        ({"colour": "red"}, 400, "invalid"),
        ({"scheduleTimestamp": "2020-01-01T00:00:00Z"}, 400, "invalid"),
        ({"userId": "019ab3c2-0000-7000-8000-000000000000"}, 403, "acting_for_others_not_allowed"),
        ({"message": "x" * 2000}, 422, "too_many_segments"),
        ({"maxTotalCost": 0.5}, 422, "max_total_cost_exceeded"),
    ],
)
def test_what_would_not_be_accepted_is_not_quoted(api, account, change, status, code):
    quoted, sent = api.post(QUOTE, BODY | change), api.post(SEND, BODY | change)

    assert (quoted.status_code, quoted.json()["code"]) == (status, code)
    assert quoted.json() == sent.json()


def test_a_quote_needs_a_key(client, db):
    assert client.post(QUOTE, BODY, content_type="application/json").status_code == 401
