"""Statement and prices over HTTP."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import ledger
from outbox import sending
from outbox.dispatch import Dispatcher
from tests.factories import PriceFactory, UserFactory

STATEMENT, PRICES = "/api/billing/statement", "/api/billing/prices"


def test_the_statement_tells_every_movement_with_the_balance_after_it(api, account, provider):
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    Dispatcher(concurrency=1).run(once=True)

    page = api.get(STATEMENT).json()

    reference = f"{entry.pk}/0"
    assert [(line["kind"], line["amount"], line["balanceAfter"]) for line in page["results"]] == [
        ("capture", 1.0, 9.0),
        ("hold", 1.0, 10.0),
        ("top_up", 10.0, 10.0),
    ]
    assert [line["reference"] for line in page["results"][:2]] == [reference, reference]
    assert set(page["results"][0]) == {"kind", "amount", "balanceAfter", "reference", "createdAt"}
    assert (page["next"], page["previous"]) == (None, None)


def test_the_statement_comes_in_pages_without_gap_or_overlap(api, account):
    for number in range(6):
        ledger.top_up(account, Decimal(number + 1), reason="x")

    amounts, address = [], f"{STATEMENT}?pageSize=3"
    while address:
        page = api.get(address).json()
        amounts += [line["amount"] for line in page["results"]]
        address = page["next"]

    assert amounts == [6, 5, 4, 3, 2, 1, 10]


def test_the_statement_is_filtered_by_kind_time_and_cause(api, account, provider):
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    later = (timezone.now() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def kinds(query):
        return [line["kind"] for line in api.get(f"{STATEMENT}?{query}").json()["results"]]

    assert kinds("kind=top_up") == ["top_up"]
    assert kinds(f"reference={entry.pk}/0") == ["hold"]
    assert kinds(f"createdAfter={later}") == []
    assert kinds(f"createdBefore={later}") == ["hold", "top_up"]
    for query in ("kind=x", "createdAfter=yesterday", "colour=x", "cursor=x", "pageSize=0"):
        assert api.get(f"{STATEMENT}?{query}").status_code == 400


def test_nobody_reads_anothers_statement(api, account, client_of):
    stranger = UserFactory()

    ledger.top_up(account, Decimal(1), reason="x")
    second_page = api.get(f"{STATEMENT}?pageSize=1").json()["next"]

    assert api.get(second_page).json()["results"] != []
    assert client_of(stranger).get(STATEMENT).json()["results"] == []
    assert client_of(stranger).get(second_page).json()["results"] == []


def test_prices_are_those_in_force_for_the_caller(api, account, price):
    begun, ahead = datetime(2026, 2, 1, tzinfo=UTC), timezone.now() + timedelta(days=1)
    PriceFactory(prefix="254", price_per_segment=Decimal("0.7"))
    PriceFactory(prefix="254", price_per_segment=Decimal("0.6"), effective_from=begun)
    PriceFactory(prefix="254", price_per_segment=Decimal("0.5"), effective_from=ahead)
    PriceFactory(prefix="44", price_per_segment=Decimal("2"))
    PriceFactory(prefix="44", price_per_segment=Decimal("1.5"), user=account.user)
    PriceFactory(prefix="44", price_per_segment=Decimal("0.1"), user=UserFactory())
    PriceFactory(prefix="1", price_per_segment=Decimal("3"), currency="USD")

    answer = api.get(PRICES).json()

    assert answer["currency"] == "KES"
    assert [(line["prefix"], line["costPerUnit"]) for line in answer["prices"]] == [
        ("default", 1.0),
        ("+254", 0.6),
        ("+44", 1.5),
    ]
    assert answer["prices"][1]["effectiveFrom"] == "2026-02-01T00:00:00Z"


@pytest.mark.parametrize("address", [STATEMENT, PRICES])
def test_money_is_told_to_nobody_without_a_key(client, db, address):
    assert client.get(address).status_code == 401
