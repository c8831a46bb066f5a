"""Work that outlives a request: rows with a due time, taken with a lease and done outside any transaction.

A worker that dies in the middle of one leaves a row that is due again when its lease is over. So a chore may be done
twice, and is made such that this does no harm.
"""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import Error as DatabaseError
from django.db.models import QuerySet

logger = logging.getLogger(__name__)

PURGE_BATCH = 5_000  # rows forgotten in one statement, which must be over long before a lease is

Job = TypeVar("Job")
Result = TypeVar("Result")


def forget(old: QuerySet[Any]) -> int:
    """Delete the first PURGE_BATCH of these rows; returns how many rows went, those that hang on them included."""
    first = list(old.values_list("pk", flat=True)[:PURGE_BATCH])
    gone: int = old.model._default_manager.filter(pk__in=first).delete()[0]
    return gone


@dataclass(frozen=True)
class Chore(Generic[Job, Result]):
    """One kind of such work.

    claim: given the jobs under way, takes further ones that are due. do: the slow part; it touches no database.
    finish: writes what came of it. places: jobs at once in one process.
    """

    name: str
    places: int
    claim: Callable[[list[Job]], Iterable[Job]]
    do: Callable[[Job], Result]
    finish: Callable[[Job, Result], None]


class Chores:
    """Those of one worker. The thread that talks to the database begins and finishes them."""

    def __init__(self, *chores: Chore[Any, Any]) -> None:
        self.places = sum(chore.places for chore in chores)
        self._under_way: dict[Chore[Any, Any], dict[Future[Any], Any]] = {chore: {} for chore in chores}

    def begin(self, pool: Executor) -> None:
        """Take what is due and let it be done in the pool."""
        for chore, jobs in self._under_way.items():
            try:
                for job in chore.claim(list(jobs.values())):
                    jobs[pool.submit(chore.do, job)] = job
            except DatabaseError:
                raise
            except Exception:  # a provider's mistake, say: the other chores go on
                logger.exception("%s: cannot be begun", chore.name)

    def finish(self) -> None:
        """Write what came of those that are done. What cannot be written is done again after its lease."""
        for chore, jobs in self._under_way.items():
            for future in [future for future in jobs if future.done()]:
                job = jobs.pop(future)
                try:
                    chore.finish(job, future.result())
                except DatabaseError:
                    raise
                except Exception:  # one job's trouble must not end the worker, with all that it has under way
                    logger.exception("%s: what came of it cannot be written", chore.name)
