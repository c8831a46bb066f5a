"""Answers too long, packed, redirected or with cookies: little is read, nothing is followed or kept."""

import gzip
import socket
from collections.abc import Callable
from typing import Any

import pytest

from outbox.providers.base import Accepted, OutcomeUnknown, Unavailable
from smsportal.calls.connections import LIMIT
from tests.outbox.gateway import CHUNKED, MESSAGE, YES, Gateway, answer, make, outcome


def _bomb(sock: socket.socket) -> None:
    sock.sendall(
        answer(200, gzip.compress(b'{"status": "accepted", "x": "' + b" " * 50_000_000, 9), Content_Encoding="gzip")
    )


def _endless_body(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\nOK id=9\n")
    for _ in range(200):
        sock.sendall(b" " * 1_000_000)


@pytest.mark.parametrize("says", [_bomb, _endless_body])
def test_no_more_than_64_kib_of_an_answer_is_read(says: Callable[[socket.socket], None]) -> None:
    with Gateway(says) as gateway:
        provider = make(gateway)
        got = provider.calls.call(provider._prepared(MESSAGE), 5)
        result = outcome(provider)

    assert (len(got.body), got.whole) == (LIMIT, False)
    assert type(result) is OutcomeUnknown


def test_the_framing_of_a_body_counts_too() -> None:
    sent = []

    def chunks(sock: socket.socket) -> None:
        sock.sendall(CHUNKED)
        for number in range(100_000):
            sent.append(number)
            sock.sendall(b"1;" + b"x" * 9000 + b"\r\n{\r\n")

    with Gateway(chunks) as gateway:
        assert type(outcome(make(gateway))) is OutcomeUnknown
    assert len(sent) < 10_000  # what fits the buffers on the way


def test_an_oversized_answer_that_says_accepted_at_its_start_is_accepted() -> None:
    rule = {"status": [200], "matches": "^OK"}
    with Gateway(_endless_body) as gateway:
        assert outcome(make(gateway, accepted=rule, id={"matches": r"id=(\w+)"})) == Accepted("9")


def test_an_answer_may_be_packed_or_in_chunks() -> None:
    body = YES.partition(b"\r\n\r\n")[2]
    with Gateway(answer(200, gzip.compress(body), Content_Encoding="gzip")) as gateway:
        assert outcome(make(gateway)) == Accepted("abc-1")
    with Gateway(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)) as gateway:
        assert outcome(make(gateway)) == Accepted("abc-1")
        assert gateway.requests[0].headers["accept-encoding"] == "identity"


def test_a_redirect_is_not_followed() -> None:
    with Gateway(YES) as target, Gateway(answer(307, Location=target.url)) as gateway:
        result = outcome(make(gateway))

        assert isinstance(result, Unavailable)
        assert (result.error_code, result.refuses_us) == ("provider_redirects", True)
        assert target.connections == 0


def test_no_cookie_is_kept_and_nothing_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Gateway(YES) as proxy, Gateway(answer(200, "{}", Set_Cookie="session=1; Path=/")) as gateway:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        provider = make(gateway)

        outcome(provider)
        outcome(provider)

        assert proxy.connections == 0
        assert all("cookie" not in request.headers for request in gateway.requests)
        assert all("authorization" not in request.headers for request in gateway.requests)
