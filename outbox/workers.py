"""Which dispatchers are at work: each says so every other second."""

import os
import socket
import time
from datetime import timedelta

from django.db.models import QuerySet
from django.db.models.functions import Now

from outbox.models import Worker

BEAT_S = 2.0
ALIVE_S = 15.0  # a worker that has said nothing for so long is taken for dead, or for stopped
REMEMBERED = timedelta(days=1)  # for the staff to see that one was killed


class Heartbeat:
    """The row of one worker: made at its first beat, gone when it ends in peace."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._beat_at = 0.0

    def beat(self, calls: int) -> None:
        """Say that we live, if it is time to. calls: under way."""
        if time.monotonic() < self._beat_at:
            return
        if self._worker is None:
            self._worker = Worker.objects.create(host=socket.gethostname()[:255], pid=os.getpid(), calls=calls)
            Worker.objects.filter(beat_at__lt=Now() - REMEMBERED).delete()
        else:
            self._worker.beat_at, self._worker.calls = Now(), calls
            self._worker.save()  # also when somebody has removed it
        self._beat_at = time.monotonic() + BEAT_S

    def end(self) -> None:
        """Say that we end."""
        if self._worker is not None:
            self._worker.delete()
            self._worker = None


def alive() -> QuerySet[Worker]:
    """The workers that have said something of late."""
    return Worker.objects.filter(beat_at__gt=Now() - timedelta(seconds=ALIVE_S))
