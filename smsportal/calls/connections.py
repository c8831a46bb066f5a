"""Connections that keep one deadline, note the first byte written, and serve again only after one clean answer.

The deadline. requests' timeout is per read, so a server that drips a byte a second never meets it. Here every blocking
step (look-up, each connect, the TLS handshake, each write, each read) is given what is left of the call's deadline and
no more. Nothing watches from another thread, so no socket is closed under the feet of the thread that uses it, and TLS
needs no treatment of its own: Python bounds a whole handshake, and a whole read of a record, by the socket's timeout.

Reuse. A server that answers twice on one connection would give the next message the previous one's answer. So a
connection goes back only after one whole, ordinary answer with no byte behind it; it rests before it serves again, so
that a late second answer has time to show, and is looked at again right before the next request's first byte. What
this cannot see is a second answer that comes later than that: only a header `Connection: close` excludes it.
"""

import collections
import contextlib
import http.client
import io
import queue
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

LIMIT = 64 * 1024  # bytes of an answer's head, and again of its body, both as sent and decoded
RECORD = 16 * 1024  # what TLS writes in one step
REST_S = 0.02  # a connection's pause between two messages: a second answer that comes within it is seen
IDLE_S = 1.0  # common servers close idle connections after 2 s (gunicorn) or 5 s (Apache, Node): be gone before that


class TooLongError(Exception):
    """The answer is longer than anybody needs."""


class Evidence:
    """What is known of the call that this thread is in."""

    def __init__(
        self, seconds: float, *, reuse: bool, may_connect: Callable[[str], bool] = lambda address: True
    ) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.reuse = reuse
        self.may_connect = may_connect
        self.securing = False  # connected, and no further than the TLS handshake
        self.handed_over = False  # from here on the message may have been taken
        self.trouble = ""  # why no connection came about, in words that hold nothing of the message
        self.response: _Response | None = None

    def left(self) -> float:
        """Seconds until the deadline. Raises TimeoutError."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def ended_well(self) -> bool:
        """Whether one ordinary answer came, with nothing behind it."""
        response = self.response
        return (
            self.reuse
            and response is not None
            and not response.reader.surplus
            and response.status // 100 in (2, 4)  # redirects, server errors and stray 1xx are not ordinary
        )


current = threading.local()  # .call; urllib3 hands nothing of ours through to its connections


def _call() -> Evidence:
    return cast("Evidence", current.call)


# --- reading ----------------------------------------------------------------------------------------------------------


class _Reader(io.RawIOBase):
    """The socket as a file, each read bounded by the deadline, all of them by LIMIT."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self.budget = LIMIT
        self.ended = False  # the other side closed
        self.finished = False  # the answer is read: what is still buffered does not belong to it
        self.surplus = False

    def makefile(self, mode: str) -> io.BufferedReader:
        """All that http.client asks of its socket."""
        return _Buffer(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.finished:
            return 0
        if self.budget <= 0:
            raise TooLongError
        self._sock.settimeout(_call().left())
        count = self._file.readinto(memoryview(buffer)[: self.budget])
        self.budget -= count or 0
        self.ended = count == 0
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Buffer(io.BufferedReader):
    """http.client closes it with the answer's last byte: the moment to see whether more came than was asked for."""

    def __init__(self, reader: _Reader) -> None:
        super().__init__(reader)
        self._reader = reader

    def close(self) -> None:
        if not self.closed:
            self._reader.finished = True
            self._reader.surplus = bool(self.peek(1))
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self.reader = _Reader(sock)
        _call().response = self
        super().__init__(cast("socket.socket", self.reader), *args, **kwargs)

    def begin(self) -> None:
        super().begin()
        if self.reader.ended:  # http.client takes an end in the middle of the headers for the end of the headers
            raise http.client.IncompleteRead(b"")
        self.reader.budget = LIMIT


# --- connections ------------------------------------------------------------------------------------------------------


def look_up(host: str, port: int, seconds: float) -> list[tuple[Any, ...]]:
    """getaddrinfo() within `seconds`; it takes no timeout itself, so a thread waits. Raises OSError, UnicodeError."""
    found: queue.SimpleQueue[list[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            found.put(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Bounded(HTTPConnection):
    """A connection whose every step is bounded by the call's deadline, and that notes the first byte written."""

    response_class = _Response
    resting_since = 0.0

    def _new_conn(self) -> socket.socket:
        call = _call()
        call.trouble = "its name could not be resolved"
        found = look_up(self._dns_host, self.port, call.left())
        # Asked of the very addresses that are connected to: a name may lead elsewhere the next time it is asked.
        addresses = [one for one in found if call.may_connect(one[4][0])]
        call.trouble = "it could not be connected to" if addresses else "its name leads to an address of no public host"
        failure: Exception = OSError("no address")
        for position, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = None
            try:
                sock = socket.socket(family, kind, protocol)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A share each: an address that swallows packets must not eat the time of the next.
                sock.settimeout(call.left() / (len(addresses) - position))
                sock.connect(address)
                sock.settimeout(call.left())  # what the TLS handshake is bounded by
            except OSError as error:
                failure = error
                if sock:
                    sock.close()
            else:
                return sock
        if isinstance(failure, TimeoutError | ConnectionRefusedError):
            call.trouble = (
                "it did not answer in time" if isinstance(failure, TimeoutError) else "it refused the connection"
            )
        raise failure

    def send(self, data: Any) -> None:
        call = _call()
        if self.resting_since and not call.handed_over and not self.is_connected:
            self.sock.close()  # closed, or spoken on, while it rested: nothing is written yet, so a new one will do
            self.sock = None
        if self.sock is None:
            self.resting_since = 0.0
            self.connect()
        rest = memoryview(data)
        while rest:
            self.sock.settimeout(call.left())
            call.handed_over = True
            self.sock.sendall(rest[:RECORD])
            rest = rest[RECORD:]

    @property
    def is_connected(self) -> bool:
        """Open, and with nothing to read: bytes that nobody asked for belong to no message of ours."""
        buffered = self.sock.pending() if isinstance(self.sock, ssl.SSLSocket) else 0
        return not buffered and super().is_connected


class _BoundedTLS(_Bounded, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        _call().securing = True
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        except ssl.SSLCertVerificationError as error:
            _call().trouble = f"its certificate is not trusted: {error.verify_message}"
            raise
        except OSError:
            if _call().securing:
                _call().trouble = "no secure connection came about"
            raise


class RestingPool(urllib3.HTTPConnectionPool):
    """Connections between two calls, the longest rested first.

    There are as many as are in use at once, and those that rest; at low load what is idle too long is closed.
    """

    ConnectionCls = _Bounded

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resting: collections.deque[_Bounded] = collections.deque()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._resting)

    def _get_conn(self, timeout: float | None = None) -> Any:
        stale: list[_Bounded] = []
        try:
            with self._lock:
                while self._resting and (rested := time.monotonic() - self._resting[0].resting_since) >= REST_S:
                    connection = self._resting.popleft()
                    if rested <= IDLE_S:
                        return connection
                    stale.append(connection)
            return self._new_conn()
        finally:
            _close_all(stale)

    def _put_conn(self, conn: Any) -> None:
        """What urllib3 does with a connection after the answer's last byte, in the thread that read it."""
        if conn is None or conn.is_closed:
            return
        if not (_call().ended_well() and conn.is_connected):
            conn.close()
            return
        conn.resting_since = time.monotonic()
        with self._lock:
            self._resting.append(conn)

    def close(self) -> None:
        _close_all(self._resting)
        super().close()


class RestingTLSPool(RestingPool, urllib3.HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = _BoundedTLS


def _close_all(connections: collections.deque[_Bounded] | list[_Bounded]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()
