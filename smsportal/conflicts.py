"""When PostgreSQL ends one transaction in favour of another, the work is done again, and nobody learns of it."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from django.db import OperationalError, connection
from django.db.models import Model
from psycopg.errors import DeadlockDetected, SerializationFailure

logger = logging.getLogger(__name__)

REPEATS = 3

P = ParamSpec("P")
T = TypeVar("T")


def repeated_on_conflict(act: Callable[P, T]) -> Callable[P, T]:
    """Repeat `act`, a transaction of its own, up to three times after a deadlock or a serialization failure.

    Models among its arguments are read anew, since what failed may have changed them. Within a transaction of the
    caller's nothing is repeated: that has come to its end with ours.
    """

    @functools.wraps(act)
    def repeating(*args: P.args, **kwargs: P.kwargs) -> T:
        for number in range(1, REPEATS + 1):
            try:
                return act(*args, **kwargs)
            except OperationalError as error:
                cause = error.__cause__
                if not isinstance(cause, DeadlockDetected | SerializationFailure) or connection.in_atomic_block:
                    raise
                logger.warning("%s: %s; repeat %d", act.__qualname__, type(cause).__name__, number)
            for argument in args:
                if isinstance(argument, Model):
                    argument.refresh_from_db()
        return act(*args, **kwargs)

    return repeating
