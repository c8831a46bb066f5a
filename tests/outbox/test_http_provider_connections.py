"""Kept connections: used again when all was well, and never for a second answer to the message before."""

import json
import socket
import ssl
import threading
import time
from typing import Any

import pytest

from outbox.providers.base import Accepted, Message, OutcomeUnknown
from outbox.providers.http import Provider
from smsportal import calls
from smsportal.calls.connections import IDLE_S, REST_S
from tests.outbox.gateway import CERTIFICATE, MESSAGE, YES, Gateway, answer, make, outcome, send


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's certificate is trusted."""
    monkeypatch.setattr(calls, "_trusted_authorities", lambda: ssl.create_default_context(cafile=str(CERTIFICATE)))


@pytest.mark.usefixtures("trusting")
def test_a_trusted_certificate_serves_message_after_message_on_one_connection() -> None:
    with Gateway(YES, tls=True) as gateway:
        provider = make(gateway)
        for _ in range(3):
            assert outcome(provider) == Accepted("abc-1")
            time.sleep(REST_S * 2)

        assert gateway.connections == 1


def test_a_kept_connection_that_dies_under_a_message_is_unknown_and_not_tried_again() -> None:
    served = []

    def once(sock: socket.socket) -> bool:
        served.append(sock)
        if len(served) == 1:
            sock.sendall(YES)
        return len(served) == 1

    with Gateway(once) as gateway:
        provider = make(gateway)
        outcome(provider)
        time.sleep(REST_S * 2)

        assert type(outcome(provider)) is OutcomeUnknown
        assert [request.connection for request in gateway.requests] == [1, 1]


def test_a_connection_serves_the_next_message_when_all_was_well_and_it_has_rested() -> None:
    with Gateway(YES) as gateway:
        provider = make(gateway)
        for pause in (REST_S * 2, REST_S * 2, IDLE_S + 0.2, 0):
            assert outcome(provider) == Accepted("abc-1")
            time.sleep(pause)

        assert [request.connection for request in gateway.requests] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("says", "options"),
    [
        (answer(500), {}),
        (answer(302), {}),
        (answer(200, "x" * 70_000), {}),
        (YES + b"surplus", {}),
        (YES + YES, {}),
        (YES, {"headers": {"Connection": "close"}}),
    ],
)
def test_a_connection_ends_with_anything_out_of_the_ordinary(says: bytes, options: dict[str, Any]) -> None:
    with Gateway(says) as gateway:
        provider = make(gateway, **options)
        outcome(provider)
        time.sleep(REST_S * 2)
        outcome(provider)

        assert [request.connection for request in gateway.requests] == [1, 2]


@pytest.mark.parametrize("gap_s", [0, 0.0005, 0.002, 0.01])
def test_a_second_answer_never_becomes_the_next_messages(gap_s: float) -> None:
    counted = iter(range(1000))

    def twice(sock: socket.socket) -> bool:
        says = answer(200, json.dumps({"status": "accepted", "id": f"{next(counted)}"}))
        sock.sendall(says)
        time.sleep(gap_s)
        sock.sendall(says)
        return True

    with Gateway(twice) as gateway:
        provider = make(gateway)
        ids = [provider.send(MESSAGE).provider_message_id for _ in range(60)]

    assert ids == [str(number) for number in range(60)]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.usefixtures("trusting")
def test_a_connection_that_closes_or_speaks_between_two_messages_is_replaced(tls: bool) -> None:
    def late(sock: socket.socket) -> bool:
        sock.sendall(YES)
        time.sleep(REST_S * 2)
        sock.sendall(YES)
        return True

    for says in (late, send(YES)):
        with Gateway(says, tls=tls) as gateway:
            provider = make(gateway)
            for _ in range(2):
                assert outcome(provider) == Accepted("abc-1")
                time.sleep(REST_S * 5)

            assert [request.connection for request in gateway.requests] == [1, 2]


def test_many_threads_share_a_provider_and_each_gets_its_own_answer() -> None:
    wrong: list[str] = []

    def echo(sock: socket.socket) -> bool:
        time.sleep(0.005)
        sock.sendall(YES)
        return True

    def work(provider: Provider, number: int) -> None:
        for turn in range(5):
            result = outcome(provider, Message(f"{number}-{turn}", "+254711000001", "x", "", "GSM-7", 1))
            if result != Accepted("abc-1"):
                wrong.append(repr(result))

    with Gateway(echo) as gateway:
        provider = make(gateway)
        threads = [threading.Thread(target=work, args=(provider, number)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert len({json.loads(request.body)["reference"] for request in gateway.requests}) == 320
