"""What all tests share."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db.backends.postgresql.operations import DatabaseOperations
from django.test import Client
from rest_framework.test import APIClient

from billing import ledger
from billing.models import Account
from outbox.providers import get_provider
from outbox.providers.locmem import Provider as LocmemProvider
from smsportal.embedded_postgres import Cluster, temporary_cluster
from smsportal.models import ApiKey, User
from tests.factories import PriceFactory, SenderIdFactory, UserFactory


@pytest.fixture(autouse=True, scope="session")
def ledger_may_be_emptied_between_tests() -> Iterator[None]:
    """Tests with real transactions end with TRUNCATE, which the ledger's trigger refuses, and rightly so."""
    flush = DatabaseOperations.sql_flush

    def sql_flush(self: DatabaseOperations, style: Any, tables: Any, **options: Any) -> list[str]:
        statements = flush(self, style, tables, **options)
        switch = "ALTER TABLE billing_posting {} TRIGGER posting_append_only;"
        return [switch.format("DISABLE"), *statements, switch.format("ENABLE")] if statements else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of the module's own, for portals that run in processes of their own."""
    with temporary_cluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def one_request_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that must not tell one thing from another are compared byte for byte: only the request's id differs."""
    monkeypatch.setattr("smsportal.middleware.new_request_id", lambda: "made-by-the-portal")


@pytest.fixture
def provider() -> Iterator[LocmemProvider]:
    """The provider that tests route to: accepts all, until told otherwise."""
    get_provider.cache_clear()
    found = get_provider("locmem")
    assert isinstance(found, LocmemProvider)
    yield found
    get_provider.cache_clear()


@pytest.fixture
def user(db: None) -> User:
    user = UserFactory(username="amina", default_sender_id="MYBRAND")
    SenderIdFactory(user=user)
    return user


@pytest.fixture
def account(user: User, price: Any) -> Account:
    """10.00 KES, at 1.00 KES a segment."""
    account = ledger.account_of(user)
    ledger.top_up(account, Decimal(10), reason="first payment")
    account.refresh_from_db()
    return account


@pytest.fixture
def price(db: None) -> Any:
    return PriceFactory(price_per_segment=Decimal(1))


@pytest.fixture
def client_of() -> Any:
    """An API client with a key of the given user."""

    def make(user: User, **key: Any) -> APIClient:
        _, secret = ApiKey.issue(user, "test", **key)
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        return client

    return make


@pytest.fixture
def api(account: Account, client_of: Any) -> APIClient:
    """An API client of `account`'s user."""
    client: APIClient = client_of(account.user)
    return client


@pytest.fixture
def superuser(db: None) -> User:
    return UserFactory(username="root", is_staff=True, is_superuser=True)


@pytest.fixture
def admin_site(superuser: User) -> Client:
    """A browser in which a superuser is logged in."""
    client = Client()
    client.force_login(superuser)
    return client


@pytest.fixture
def staff_with(db: None) -> Any:
    """A browser of somebody on the staff with these permissions, such as "outbox.view_outbox", and no others."""

    def make(*permissions: str) -> Client:
        staff = UserFactory(is_staff=True)
        for permission in permissions:
            app, codename = permission.split(".")
            staff.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        client = Client()
        client.force_login(staff)
        return client

    return make


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the handler of the settings writes, from DEBUG on: a list of JSON objects, one for each line so far."""
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    written, level = handler.setStream(stream), logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    handler.setStream(written)
    logging.getLogger().setLevel(level)
