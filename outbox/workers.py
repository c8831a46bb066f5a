"""Which dispatchers are at work: each says so every other second, and whether its machine's clock is right."""

import os
import socket
import time
from datetime import timedelta

from django.db.models import QuerySet
from django.db.models.functions import Now

from outbox.models import Worker
from smsportal import notices
from smsportal.instants import database_now
from smsportal.models import Notice

BEAT_S = 2.0
ALIVE_S = 15.0  # a worker that has said nothing for so long is taken for dead, or for stopped
REMEMBERED = timedelta(days=1)  # for the staff to see that one was killed
SKEW_S = 30.0  # no decision rests on a worker's clock, but its log lines and its view of certificates do
CLOCK = "clock"  # the kind of notice


class Heartbeat:
    """The row of one worker: made at its first beat, gone when it ends in peace."""

    def __init__(self) -> None:
        self._host = socket.gethostname()[:128]  # what a notice can be about
        self._worker: Worker | None = None
        self._beat_at = 0.0

    def beat(self, calls: int) -> None:
        """Say that we live, if it is time to. calls: under way."""
        if time.monotonic() < self._beat_at:
            return
        if self._worker is None:
            self._worker = Worker.objects.create(host=self._host, pid=os.getpid(), calls=calls)
            _forget_the_dead()
        else:
            self._worker.beat_at, self._worker.calls = Now(), calls
            self._worker.save()  # also when somebody has removed it
        self._compare_clocks()
        self._beat_at = time.monotonic() + BEAT_S

    def end(self) -> None:
        """Say that we end."""
        if self._worker is not None:
            self._worker.delete()
            self._worker = None
            if not Worker.objects.filter(host=self._host).exists():
                notices.end_for_staff(CLOCK, self._host)

    def _compare_clocks(self) -> None:
        """Tell the staff when this machine's clock is not the database's."""
        before = time.time()
        right = database_now().timestamp()
        wrong_by = max(before - right, right - time.time())  # at least: the question took its time
        if wrong_by <= SKEW_S:
            notices.end_for_staff(CLOCK, self._host)
            return
        direction = "fast" if before > right else "slow"
        text = f"The clock of {self._host} is {wrong_by:.0f} s {direction}, by the database's. Set it right: no message"
        text += " goes out early, late or twice for it, but log lines are dated and certificates are judged by it."
        notices.tell_staff(CLOCK, self._host, text, Notice.Level.WARNING)


def _forget_the_dead() -> None:
    Worker.objects.filter(beat_at__lt=Now() - REMEMBERED).delete()
    told = Notice.objects.filter(user=None, kind=CLOCK, ended_at=None).values_list("about", flat=True)
    for host in set(told) - set(Worker.objects.values_list("host", flat=True)):
        notices.end_for_staff(CLOCK, host)


def alive() -> QuerySet[Worker]:
    """The workers that have said something of late."""
    return Worker.objects.filter(beat_at__gt=Now() - timedelta(seconds=ALIVE_S))
