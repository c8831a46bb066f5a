"""Clients that send or read slowly, too much, or never to the end: they keep nobody waiting and are let go."""

import json
import socket
from urllib.parse import urlsplit

import pytest
import requests

from tests.portal import running_portal

MANY = 50
PATIENCE_S = 60  # only for "stuck"
BODY = b'{"recipientPhoneNumber": "+254711000099", "message": "x"}'
BIG_FILE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"


@pytest.fixture(scope="module")
def portal(cluster, tmp_path_factory):
    with running_portal(tmp_path_factory.mktemp("portal"), cluster.url) as portal:
        yield portal


@pytest.fixture
def connect(portal):
    """Opens connections to the portal and sends these bytes on each; all are closed at the end."""
    opened = []

    def make(data):
        client = socket.socket()
        opened.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", urlsplit(portal.told["baseUrl"]).port))
        client.sendall(data)
        return client

    yield make
    for client in opened:
        client.close()


def head(portal, *headers, path="/api/sms/send"):
    key = f"Authorization: Bearer {portal.told['apiKey']}"
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", key, *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def answer_on(client):
    """The first answer on a connection: its status, its headers and its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536) or pytest.fail(f"closed after {received!r}")
    top, body = received.split(b"\r\n\r\n", 1)
    first, *lines = top.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    length = int(headers["content-length"])
    while len(body) < length:
        body += client.recv(65536) or pytest.fail("closed within the body")
    return int(first.split()[1]), headers, body[:length]


def problem_on(client):
    status, headers, body = answer_on(client)
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["status"] == status
    return json.loads(body)["code"]


def is_open(client):
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    finally:
        client.settimeout(PATIENCE_S)


def test_fifty_of_each_kind_of_slow_client_keep_nobody_waiting(portal, connect):
    started = head(portal, f"Content-Length: {len(BODY)}") + BODY[:5]
    kinds = {
        "nothing": b"",
        "a part of the headers": started[:40],
        "a part of the body": started,
        "a part of the body, in chunks": head(portal, "Transfer-Encoding: chunked") + b"5\r\n" + BODY[:5] + b"\r\n",
        "no reading": f"GET {BIG_FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
    }
    for _ in range(3):  # on a machine so busy that this takes ten seconds, the first of them are gone by then
        slow = {kind: [connect(data) for _ in range(MANY)] for kind, data in kinds.items()}

        sent = portal.post("/api/sms/send", json.loads(BODY))
        page = requests.get(portal.told["baseUrl"] + "/login/", timeout=PATIENCE_S)

        assert (sent.status_code, page.status_code) == (201, 200)
        if all(is_open(client) for clients in slow.values() for client in clients):
            break
    else:
        pytest.fail("nobody was slow meanwhile")
    # In the end each is let go: with an answer where there can be one.
    assert {problem_on(client) for client in slow["a part of the body"]} == {"too_slow"}
    assert {problem_on(client) for client in slow["a part of the body, in chunks"]} == {"too_slow"}
    assert {client.recv(1) for client in slow["nothing"] + slow["a part of the headers"]} == {b""}
    assert {answer_on(client)[0] for client in slow["no reading"]} == {200}


@pytest.mark.parametrize("size", [70_000, 3_000_000, 100_000_000])
def test_a_body_that_is_announced_too_large_is_a_413_before_it_is_there(portal, connect, size):
    assert problem_on(connect(head(portal, f"Content-Length: {size}"))) == "body_too_large"


def test_a_client_that_first_sends_all_and_then_reads_gets_its_413(portal):
    answer = portal.post("/api/sms/send", {"message": "x" * 3_000_000})

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_chunks_without_end_are_a_413(portal, connect):
    client = connect(head(portal, "Transfer-Encoding: chunked"))
    for _ in range(100):
        client.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    assert problem_on(client) == "body_too_large"


def test_a_body_that_breaks_off_is_no_request(portal, connect):
    before = portal.log().keys()
    client = connect(head(portal, f"Content-Length: {len(BODY) + 1}") + BODY)
    client.shutdown(socket.SHUT_WR)

    assert problem_on(client) == "invalid"
    assert portal.log().keys() == before


def test_a_body_shorter_than_it_is_goes_no_further_than_announced(portal, connect):
    assert problem_on(connect(head(portal, f"Content-Length: {len(BODY) - 1}") + BODY)) == "invalid"


def test_one_connection_serves_many_requests(portal, connect):
    client = connect(b"")
    for _ in range(3):
        client.sendall(head(portal, f"Content-Length: {len(BODY)}") + BODY)
        assert answer_on(client)[0] == 201


def test_a_person_is_told_in_plain_words(portal, connect):
    status, headers, body = answer_on(connect(head(portal, "Content-Length: 70000", path="/login/")))

    assert (status, headers["content-type"], body) == (413, "text/plain", b"Body too large. Send less.\n")
