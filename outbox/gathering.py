"""Group commit: what many threads want at the same moment is done in one transaction, by one of them for all."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from django.db import Error as DatabaseError

from smsportal.exceptions import DomainError

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass
class _Place(Generic[T]):
    item: T
    called: threading.Event = field(default_factory=threading.Event)  # it has been served, or is to serve
    served: bool = False
    done: bool = False


class Gathering(Generic[T]):
    """Collects items while one batch is under way, and makes the next batch of them.

    work: does a batch, and returns for each of its items whether that is done.
    """

    def __init__(self, work: Callable[[Sequence[T]], list[bool]]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._waiting: list[_Place[T]] = []
        self._under_way = False

    def __call__(self, item: T) -> bool:
        """Whether it is done, together with others; if not, or if the batch failed, nothing has become of it."""
        place = _Place(item)
        with self._lock:
            self._waiting.append(place)
            waits, self._under_way = self._under_way, True
        if waits:
            place.called.wait()
        if not place.served:
            self._serve()
        return place.done

    def _serve(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting, []
        try:
            for place, is_done in zip(batch, self._work([place.item for place in batch]), strict=True):
                place.done = is_done
        except (DatabaseError, DomainError):
            logger.warning("a batch of %d failed; each is tried by itself", len(batch), exc_info=True)
        finally:
            for place in batch:
                place.served = True
                place.called.set()
            with self._lock:
                self._under_way = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].called.set()
