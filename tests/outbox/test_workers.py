"""Which dispatchers are at work is known to everybody."""

import os
from datetime import timedelta

from django.db.models import F

from outbox import workers
from outbox.dispatch import Dispatcher
from outbox.models import Worker


def test_a_dispatcher_says_that_it_lives_and_that_it_ends(db, provider, monkeypatch):
    dispatcher = Dispatcher()
    seen = []

    def look():
        seen.append([worker.pid for worker in workers.alive()])
        if len(seen) == 2:
            dispatcher.stop()
        return ()

    monkeypatch.setattr(provider, "collect_receipts", look)

    dispatcher.run()

    assert seen[1] == [os.getpid()]
    assert not Worker.objects.exists()


def test_a_dispatcher_that_was_killed_is_seen_to_be_gone(db):
    workers.Heartbeat().beat(0)
    Worker.objects.update(beat_at=F("beat_at") - timedelta(seconds=workers.ALIVE_S + 1))

    assert not workers.alive().exists()
    assert Worker.objects.exists()

    Worker.objects.update(beat_at=F("beat_at") - workers.REMEMBERED)
    workers.Heartbeat().beat(0)
    assert Worker.objects.count() == 1


def test_a_heartbeat_goes_on_when_its_row_was_removed(db, monkeypatch):
    monkeypatch.setattr(workers, "BEAT_S", 0)
    heartbeat = workers.Heartbeat()
    heartbeat.beat(0)
    Worker.objects.all().delete()

    heartbeat.beat(1)

    assert workers.alive().get().calls == 1
