"""What a failure means: before the first byte nothing was sent, after it nobody knows; one deadline holds for all."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from outbox.providers.base import Accepted, Message, OutcomeUnknown, Unavailable
from smsportal import calls
from tests.outbox.gateway import CERTIFICATE, CHUNKED, YES, Gateway, make, outcome, reset, send


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_refused_connection_provably_sent_nothing() -> None:
    result = outcome(make(f"http://127.0.0.1:{_free_port()}/"))

    assert isinstance(result, Unavailable)
    assert (result.error_code, result.retry_after) == ("provider_unreachable", None)


def test_an_unknown_name_provably_sent_nothing() -> None:
    result = outcome(make("http://nonexistent.invalid/", timeout_s=1))

    assert isinstance(result, Unavailable)
    assert result.error_code == "provider_unreachable"


def test_a_name_look_up_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(30) and [])
    started = time.monotonic()

    result = outcome(make("http://gateway.example/", timeout_s=0.3))

    over.set()
    assert isinstance(result, Unavailable)
    assert time.monotonic() - started < 3


@contextlib.contextmanager
def _swallowing() -> Iterator[int]:
    """A port of 127.0.0.2 whose backlog is full: a connect is not answered."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0))
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield listener.getsockname()[1]


def test_a_connect_that_hangs_provably_sent_nothing() -> None:
    with _swallowing() as port:
        started = time.monotonic()

        result = outcome(make(f"http://127.0.0.2:{port}/", timeout_s=0.4))

    assert isinstance(result, Unavailable)
    assert result.error_code == "provider_unreachable"
    assert time.monotonic() - started < 3


def test_an_address_that_swallows_packets_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with _swallowing() as port, Gateway(YES) as gateway:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (("127.0.0.2", port), ("127.0.0.1", gateway.port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)

        assert outcome(make("http://gateway.example/", timeout_s=1.5)) == Accepted("abc-1")


def _not_tls(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_an_untrusted_certificate_stops_the_message_before_it_leaves() -> None:
    with Gateway(YES, tls=True) as gateway:
        result = outcome(make(gateway))

        assert isinstance(result, Unavailable)
        assert result.error_code == "provider_tls"
        assert "certificate" in result.details
        assert gateway.requests == []


def test_a_server_without_tls_or_one_that_hangs_in_the_handshake_gets_nothing() -> None:
    with Gateway(_not_tls) as gateway:
        speaks_plain = outcome(make(gateway.url.replace("http:", "https:"), timeout_s=1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hangs = outcome(make(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.3))

    for result in (speaks_plain, hangs):
        assert isinstance(result, Unavailable)
        assert result.error_code == "provider_tls"


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's certificate is trusted."""
    monkeypatch.setattr(calls, "_trusted_authorities", lambda: ssl.create_default_context(cafile=str(CERTIFICATE)))


def _drip(data: bytes) -> Callable[[socket.socket], None]:
    def drip(sock: socket.socket) -> None:
        for byte in data:
            sock.sendall(bytes([byte]))
            time.sleep(0.15)  # each pause far below the deadline, all together far above

    return drip


def _without_end(part: bytes) -> Callable[[socket.socket], None]:
    """Until the other side has had enough."""

    def flood(sock: socket.socket) -> None:
        for _ in range(1_000_000):
            sock.sendall(part)

    return flood


def _then(first: bytes, rest: Callable[[socket.socket], object]) -> Callable[[socket.socket], object]:
    def both(sock: socket.socket) -> None:
        sock.sendall(first)
        rest(sock)

    return both


BROKEN: dict[str, Callable[[socket.socket], object]] = {
    "hangs": lambda sock: time.sleep(4),
    "end of file": send(),
    "reset": reset,
    "headers drip": _drip(YES),
    "body drips": _then(YES[:-30], _drip(YES[-30:])),
    "chunks drip": _then(CHUNKED, _drip(b"1\r\n{\r\n" * 20)),
    "headers without end": send(b"HTTP/1.1 200 OK\r\nContent-Type: text/pl"),
    "endless headers": _then(b"HTTP/1.1 200 OK\r\n", _without_end(b"X: " + b"y" * 9000)),
    "endless continue": _without_end(b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "body shorter than announced": send(YES[:-5]),
    "chunk shorter than announced": send(CHUNKED, b"40\r\n{}"),
    "chunk of nonsense": send(CHUNKED, b"zz\r\n{}"),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("says", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.usefixtures("trusting")
def test_whatever_breaks_after_the_first_byte_is_unknown_within_the_deadline_and_never_sent_again(
    says: Callable[[socket.socket], object], tls: bool
) -> None:
    with Gateway(says, tls=tls) as gateway:
        provider = make(gateway, accepted={"status": [200]}, timeout_s=0.6)
        started = time.monotonic()

        result = outcome(provider)

        assert time.monotonic() - started < 2  # on a busy machine; without the deadline it takes 3 s and more
        assert type(result) is OutcomeUnknown
        assert len(gateway.requests) == 1


@pytest.mark.parametrize("pause_s", [0.05, 30])
def test_a_request_that_the_server_reads_slowly_or_not_at_all_is_unknown_at_the_deadline(pause_s: float) -> None:
    over = threading.Event()

    def read_slowly(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            while not over.wait(pause_s):
                sock.recv(64 * 1024)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader = threading.Thread(target=read_slowly, args=(listener,))
        reader.start()
        started = time.monotonic()

        result = outcome(
            make(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_s=0.5),
            Message("1", "+254711000001", "x" * 20_000_000, "", "GSM-7", 1),
        )
        over.set()
        reader.join()

    assert type(result) is OutcomeUnknown
    assert time.monotonic() - started < 3
