"""Rows that tests need and do not care about."""

from datetime import UTC, datetime
from decimal import Decimal

import factory
from factory.django import DjangoModelFactory

from billing.models import Price
from outbox.look_alikes import fold
from outbox.models import SenderId
from smsportal.models import User


class UserFactory(DjangoModelFactory):
    class Meta:
        model = User

    username = factory.Sequence(lambda number: f"user{number}")


class PriceFactory(DjangoModelFactory):
    class Meta:
        model = Price

    prefix = ""
    price_per_segment = Decimal("0.8")
    effective_from = datetime(2026, 1, 1, tzinfo=UTC)
    reason = "price list"


class SenderIdFactory(DjangoModelFactory):
    """Approved, as staff leave it."""

    class Meta:
        model = SenderId

    name = "MYBRAND"
    folded = factory.LazyAttribute(lambda sender_id: fold(sender_id.name))
    state = "approved"
