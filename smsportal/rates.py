"""Limits of how often something may be done, exact however many do it at once: the database decides.

Each limit is a bucket with room for `places`; one place becomes free again every `period_s / places` seconds (the
generic cell rate algorithm, as in ATM networks). So at most `places` get through at once, and no more than that many
in every `period_s` after it.
"""

import hashlib
import math
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.db import connection, transaction

from smsportal.chores import PURGE_BATCH
from smsportal.exceptions import RateLimited


@dataclass(frozen=True)
class Limit:
    """At most `places` times in `period_s` seconds for each `about`: a user, a number, an address."""

    name: str  # in the API
    about: str
    places: int
    period_s: float
    rule: str  # the sentence for who is refused

    @property
    def bucket(self) -> uuid.UUID:
        """A hash of what it is about: no number and no text is readable in the table."""
        named = f"{self.name}/{self.period_s}/{self.about}"
        return uuid.UUID(bytes=hashlib.sha256(named.encode()).digest()[:16])

    @property
    def step_s(self) -> float:
        return self.period_s / self.places

    @property
    def tolerance_s(self) -> float:
        """How far ahead of the clock a bucket may be used up and still have a place left."""
        return self.period_s - self.step_s


def take(limits: Sequence[Limit]) -> None:
    """Take one place in the bucket of each limit, or none of them.

    It is over and committed before the caller goes on, so that no row stays locked; but in a transaction of the
    caller's, not before that ends.
    Raises RateLimited for the first limit that has no place, with the time until all have one.
    """
    if not limits:
        return
    with transaction.atomic():
        taken = _take(limits)
        if len(taken) == len(limits):
            return
        waits = _waits([limit for limit in limits if limit.bucket not in taken])
        transaction.set_rollback(True)
    first = next(limit for limit in limits if limit.bucket in waits)
    raise RateLimited(first.name, first.rule, max(1, math.ceil(max(waits.values()))))


def give_back(limits: Sequence[Limit]) -> None:
    """Undo a take() whose purpose was not reached."""
    steps = {limit.bucket: limit.step_s for limit in limits}
    with transaction.atomic(), connection.cursor() as cursor:
        # Locked in the order of take().
        cursor.execute("SELECT FROM smsportal_bucket WHERE key = ANY(%s) ORDER BY key FOR UPDATE", [list(steps)])
        cursor.execute(
            """
            UPDATE smsportal_bucket AS bucket SET used_until = used_until - make_interval(secs => given.step)
            FROM unnest(%s::uuid[], %s::float8[]) AS given (key, step) WHERE bucket.key = given.key
            """,
            [list(steps), list(steps.values())],
        )


def _take(limits: Sequence[Limit]) -> Collection[uuid.UUID]:
    """One statement: a row that has no place left is locked and not changed, and is missing in what comes back."""
    # In the same order for everybody: two that want the same buckets cannot deadlock.
    ordered = sorted(limits, key=lambda limit: limit.bucket)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO smsportal_bucket AS bucket (key, used_until, step, tolerance)
            SELECT key, clock_timestamp() + make_interval(secs => step), make_interval(secs => step),
                   make_interval(secs => tolerance)
            FROM unnest(%s::uuid[], %s::float8[], %s::float8[]) AS wanted (key, step, tolerance)
            ON CONFLICT (key) DO UPDATE
            SET used_until = GREATEST(bucket.used_until, clock_timestamp()) + excluded.step,
                step = excluded.step, tolerance = excluded.tolerance
            WHERE bucket.used_until <= clock_timestamp() + excluded.tolerance
            RETURNING key
            """,
            [
                [limit.bucket for limit in ordered],
                [limit.step_s for limit in ordered],
                [limit.tolerance_s for limit in ordered],
            ],
        )
        return {key for (key,) in cursor}


def _waits(refused: Sequence[Limit]) -> dict[uuid.UUID, float]:
    """In how many seconds each of these has a place again."""
    tolerances = {limit.bucket: limit.tolerance_s for limit in refused}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT key, EXTRACT(EPOCH FROM used_until - clock_timestamp())::float8"
            " FROM smsportal_bucket WHERE key = ANY(%s)",
            [list(tolerances)],
        )
        return {key: used_s - tolerances[key] for key, used_s in cursor}


def purge() -> int:
    """Forget some buckets that are empty again; returns how many. It waits for no row, so it deadlocks with nobody."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH empty AS MATERIALIZED (
                SELECT key FROM smsportal_bucket WHERE used_until < now() LIMIT %s FOR UPDATE SKIP LOCKED
            )
            DELETE FROM smsportal_bucket AS bucket USING empty WHERE bucket.key = empty.key
            """,
            [PURGE_BATCH],
        )
        forgotten: int = cursor.rowcount
        return forgotten
