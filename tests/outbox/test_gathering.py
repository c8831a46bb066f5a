"""What comes at the same moment is done together, and one that goes wrong takes nobody with it."""

import threading

import pytest
from django.db import DatabaseError

from outbox.gathering import Gathering
from tests.threads import at_once, until


class Work:
    """Does batches; the first waits until the others have come."""

    def __init__(self, others):
        self.others = others
        self.batches = []
        self.error = None

    def __call__(self, batch):
        first = not self.batches
        self.batches.append(list(batch))
        if first:
            assert self.others.wait(30)
        if self.error and "bad" in batch:
            raise self.error
        return [item != "not done" for item in batch]


@pytest.fixture
def work():
    return Work(threading.Event())


def come_while_the_first_is_under_way(work, items):
    """What each of the items was told."""
    gathering = Gathering(work)

    def come(number):
        if number == len(items):
            until(lambda: len(gathering._waiting) == len(items))
            return work.others.set()
        until(lambda: work.batches)
        return gathering(items[number])

    first = threading.Thread(target=gathering, args=["first"], daemon=True)
    first.start()
    told = at_once(len(items) + 1, come)[:-1]
    first.join(30)
    assert gathering._waiting == []
    return told


def test_those_that_come_while_a_batch_is_under_way_are_the_next_batch(work):
    told = come_while_the_first_is_under_way(work, ["a", "b", "not done", "c"])

    assert [sorted(batch) for batch in work.batches] == [["first"], ["a", "b", "c", "not done"]]
    assert told == [True, True, False, True]


def test_a_batch_that_fails_is_told_to_all_in_it_and_the_next_one_works(work, caplog):
    work.error = DatabaseError("deadlock")

    assert come_while_the_first_is_under_way(work, ["a", "bad"]) == [False, False]

    assert "each is tried by itself" in caplog.text
    work.batches.clear()
    assert Gathering(work)("alone") is True


def test_a_mistake_in_the_work_keeps_nobody_waiting(work):
    work.error = TypeError("a mistake")

    told = come_while_the_first_is_under_way(work, ["a", "bad", "b"])

    assert sorted(map(repr, told)) == ["False", "False", "TypeError('a mistake')"]


def test_many_that_come_again_and_again_are_each_served_once():
    done = []

    def work(batch):
        done.extend(batch)
        return [True] * len(batch)

    gathering = Gathering(work)

    assert at_once(16, lambda thread: all(gathering((thread, turn)) for turn in range(200))) == [True] * 16
    assert sorted(done) == [(thread, turn) for thread in range(16) for turn in range(200)]
