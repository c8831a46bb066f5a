"""How a request gets a thread, and what happens when there is none."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.http import StreamingHttpResponse

from smsportal import asgi

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/api/sms/outbox",
    "raw_path": b"/api/sms/outbox",
    "query_string": b"",
    "headers": [(b"host", b"testserver")],
    "server": ("127.0.0.1", 8000),
    "client": ("127.0.0.1", 1234),
}


def answer_to(send=None, **scope):
    """What the server is told to send for a GET without a body: status, headers, and the parts of the body."""
    sent = []

    async def receive():
        await asyncio.sleep(3600)

    async def keep(message):
        sent.append(message)

    asyncio.run(asgi.application(SCOPE | scope, receive, send or keep))
    return sent[0]["status"], dict(sent[0]["headers"]), [part["body"] for part in sent[1:]]


@pytest.fixture
def one_thread(monkeypatch):
    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(asgi, "threads", threads)
        yield threads


def test_when_no_thread_gets_free_it_is_a_503_that_says_when_to_come_back(one_thread, monkeypatch):
    monkeypatch.setattr(asgi, "START_S", 0.01)
    done = threading.Event()
    one_thread.submit(done.wait, 60)
    try:
        status, headers, body = answer_to()
    finally:
        done.set()

    assert (status, headers[b"content-type"]) == (503, b"application/problem+json")
    assert json.loads(b"".join(body))["code"] == "unavailable"
    assert int(headers[b"retry-after"]) <= 2


def stream(monkeypatch, parts):
    response = StreamingHttpResponse(parts)

    def site(environ, start_response):
        start_response("200 OK", list(response.items()))
        return response

    monkeypatch.setattr(asgi, "site", site)
    return response


def test_an_answer_that_is_made_as_it_is_sent_goes_out_part_by_part(one_thread, monkeypatch):
    stream(monkeypatch, iter(["a", "b"]))

    assert answer_to()[2] == [b"a", b"b", b""]


def test_long_answers_leave_threads_to_the_others(one_thread, monkeypatch):
    response = stream(monkeypatch, iter(["a", "b"]))
    monkeypatch.setattr(asgi, "streaming_room", threading.BoundedSemaphore(1))
    asgi.streaming_room.acquire()

    assert answer_to()[0] == 503
    assert response.closed

    asgi.streaming_room.release()
    stream(monkeypatch, iter(["a"]))
    assert [answer_to()[0] for _ in range(3)] == [200] * 3


def test_a_client_that_stops_reading_a_long_answer_is_left(one_thread, monkeypatch):
    made = []
    response = stream(monkeypatch, (made.append(part) or part for part in "abcdef"))
    monkeypatch.setattr(asgi, "READ_S", 0.05)

    async def stuck_at_the_first_part(message):
        if message.get("more_body"):
            await asyncio.sleep(3600)

    with pytest.raises(IndexError):  # nothing was kept: our own send was given
        answer_to(send=stuck_at_the_first_part)

    assert made == ["a"]
    assert response.closed


def test_a_header_that_only_looks_like_the_proxys_is_not_taken_for_it():
    headers = [(b"x_forwarded_proto", b"https"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-twice", b"1")]

    async def environ():
        return asgi.Request(SCOPE | {"headers": [*headers, (b"x-twice", b"2")]}, b"", None, None).environ()

    found = asyncio.run(environ())
    assert "HTTP_X_FORWARDED_PROTO" not in found
    assert (found["HTTP_COOKIE"], found["HTTP_X_TWICE"]) == ("a=1;b=2", "1,2")
