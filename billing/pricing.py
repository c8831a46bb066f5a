"""What a message costs at a given moment."""

import re
from datetime import datetime

from django.db.models import F, Q, QuerySet
from django.db.models.functions import Length, Now

from billing.exceptions import NoPrice
from billing.models import Price
from smsportal.models import User


def price_for(user: User, recipient: str, currency: str) -> tuple[Price, datetime]:
    """The price in force now, and the database's now: the one clock that all the portal's machines share.

    In force is the longest matching prefix, there the user's own before the general, there the newest that has begun.
    recipient: E.164. Raises NoPrice.
    """
    digits = recipient.removeprefix("+")
    price = (
        Price.objects.filter(
            Q(user=user.live) | Q(user=None),
            prefix__in=[digits[:length] for length in range(len(digits) + 1)],
            currency=currency,
            effective_from__lte=Now(),
        )
        .annotate(as_of=Now())
        .order_by(Length("prefix").desc(), F("user").asc(nulls_last=True), "-effective_from")
        .first()
    )
    if price is None:
        raise NoPrice(f"There is no price in {currency} for this destination.")
    return price, price.as_of


def prefix_of(typed: str) -> str:
    """A prefix as prices and routes keep it: digits, or "" for `default`. Raises ValueError."""
    if typed in ("default", ""):
        return ""
    digits = typed.removeprefix("+")
    if not re.fullmatch(r"[1-9][0-9]{0,14}", digits):
        raise ValueError(f"{typed!r} is no prefix: give its digits, such as +254, or `default`.")
    return digits


def typed_prefix(prefix: str) -> str:
    """A stored prefix as people type and read it."""
    return f"+{prefix}" if prefix else "default"


def in_force(user: User, currency: str) -> QuerySet[Price]:
    """The price of each prefix at this moment for a user: his own before the general, the newest that has begun."""
    return (
        Price.objects.filter(Q(user=user.live) | Q(user=None), currency=currency, effective_from__lte=Now())
        .order_by("prefix", F("user").asc(nulls_last=True), "-effective_from")
        .distinct("prefix")
    )
