"""Arguments of commands, read once for all of them."""

from argparse import ArgumentTypeError
from datetime import datetime
from decimal import Decimal, InvalidOperation

from smsportal.instants import parse_instant
from smsportal.models import User


def user(username: str) -> User:
    found = User.objects.filter(username=username).first()
    if found is None:
        raise ArgumentTypeError(f"there is no user {username!r}")
    return found


def amount(text: str) -> Decimal:
    """Money with at most 4 decimals and 14 digits."""
    try:
        value = Decimal(text)
        if not value.is_finite() or value != round(value, 4) or abs(value) >= 10**10:
            raise ArgumentTypeError(f"{text!r} has more than 4 decimals or 14 digits")
    except InvalidOperation as error:
        raise ArgumentTypeError(f"{text!r} is not a number") from error
    return value


def instant(text: str) -> datetime:
    """An ISO 8601 time with its offset."""
    try:
        return parse_instant(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r}: {error}") from error


def reason(text: str) -> str:
    """Why, for whoever reads the books later: 1 to 200 characters."""
    if not text.strip() or len(text) > 200:
        raise ArgumentTypeError("give a reason of 1 to 200 characters")
    return text
