"""The same request again makes nothing new: it finds what the first one made."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import OperationalError
from django.db.models.functions import Now
from psycopg.errors import LockNotAvailable

from outbox.exceptions import IdempotencyKeyReused, InFlight
from outbox.models import IdempotencyKey, Outbox
from smsportal.chores import forget
from smsportal.models import User

KEPT_FOR = timedelta(hours=48)  # we promise 24


class Repeated(Exception):
    """This request was made before; `entry` is what came of it."""

    def __init__(self, entry: Outbox) -> None:
        super().__init__(entry.pk)
        self.entry = entry


@dataclass(frozen=True)
class Request:
    """One request of a caller: `key` is its Idempotency-Key, `fingerprint` what tells it from every other request."""

    caller: User
    fingerprint: str
    key: str | None = None
    api_key_id: int | None = None  # of the app that calls; None for a person

    def refuse_repeated(self) -> None:
        """Raises Repeated when the key has been used for this request, IdempotencyKeyReused when for another."""
        if self.key is None:
            return
        first = IdempotencyKey.objects.select_related("outbox").filter(user=self.caller, key=self.key).first()
        if first is not None:
            self.refuse(first.outbox, first.fingerprint, "Idempotency-Key")

    def refuse(self, entry: Outbox, fingerprint: str, what: str) -> None:
        if fingerprint != self.fingerprint:
            raise IdempotencyKeyReused(
                f"This {what} was used before, for another request. Use a new one for a new request."
            )
        raise Repeated(entry)

    def remember(self, entry: Outbox) -> None:
        """Keep the key, in the transaction that makes what it stands for.

        Raises IntegrityError when a rival with the same key was quicker.
        """
        if self.key is not None:
            IdempotencyKey.objects.create(user=self.caller, key=self.key, fingerprint=self.fingerprint, outbox=entry)


@contextmanager
def waiting_for_rivals() -> Iterator[None]:
    """Around an insert that waits for the end of a rival's transaction. Raises InFlight when that takes too long."""
    try:
        yield
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise InFlight from error
        raise


def fingerprint(operation: str, body: dict[str, Any]) -> str:
    """SHA-256 of what is asked: white space and the order of names make no difference."""
    canonical = json.dumps([operation, body], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def purge() -> int:
    """Forget some keys that are older than we promise to keep them; returns how many."""
    return forget(IdempotencyKey.objects.filter(created_at__lt=Now() - KEPT_FOR).order_by("created_at"))
