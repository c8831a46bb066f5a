"""Moments in time: the one clock that decides, and times as strangers write them."""

from datetime import UTC, datetime

from django.db import connection
from django.utils.dateparse import parse_datetime


def database_now() -> datetime:
    """This very moment by the database's clock: the clocks of web servers and workers differ."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def parse_instant(text: str) -> datetime:
    """An ISO 8601 time with its offset, in UTC: without one it would be read differently in different places.

    Raises ValueError with a sentence for a person.
    """
    try:
        parsed = parse_datetime(text)
        if parsed is not None and parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError("Must be an ISO 8601 time with an offset, such as 2027-01-01T09:00:00Z.")
