"""A provider's server on a real socket that answers as a test wants, down to the byte."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outbox.providers.base import Accepted, Message, ProviderError
from outbox.providers.http import Provider

# Self-signed for localhost and 127.0.0.1, with its key, made for these tests and used nowhere else.
CERTIFICATE = Path(__file__).with_name("gateway.pem")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """What arrived. connection: 1 for the first, and so on."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def answer(status: int = 200, body: bytes | str = b"", **headers: str) -> bytes:
    """A well-formed HTTP answer."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def reset(sock: socket.socket) -> None:
    """Break the connection off, as it is closed, with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send(*parts: bytes) -> Callable[[socket.socket], None]:
    """Send that, and close."""
    return lambda sock: sock.sendall(b"".join(parts))


class Gateway:
    """Answers each request with `says`: bytes to send, or a function that does with the connection what it likes.

    A connection stays open after bytes, and is closed after a function unless that returns True.
    """

    def __init__(self, says: bytes | Callable[[socket.socket], object], *, tls: bool = False) -> None:
        self.says = says
        self.requests: list[Request] = []
        self.over = threading.Event()  # for functions that wait
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATE)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/sms"

    def __enter__(self) -> "Gateway":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    @property
    def connections(self) -> int:
        """How many there have been."""
        return len(self._open)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock, len(self._open)), daemon=True).start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            sock = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
            with sock, sock.makefile("rb") as source:
                while request := _read(source, number):
                    self.requests.append(request)
                    if isinstance(self.says, bytes):
                        sock.sendall(self.says)
                    elif self.says(sock) is not True:
                        return


def _read(source: object, number: int) -> Request | None:
    line = source.readline().decode()
    if not line:
        return None
    method, target, _ = line.split(" ", 2)
    headers = {}
    while (line := source.readline().decode()) not in ("\r\n", ""):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = source.read(int(headers.get("content-length", "0")))
    return Request(number, method, target, headers, body)


# --- a provider for it -----------------------------------------------------------------------------------------------

MESSAGE = Message("019ab3c2-0001", "+254711000001", "Your code is 4321", "MYBRAND", "GSM-7", 1)
OPTIONS: dict[str, Any] = {
    "json": {"to": "{recipient}", "text": "{text}", "from": "{sender_id}", "reference": "{reference}"},
    "accepted": {"status": [200], "pointer": "/status", "equals": "accepted"},
    "rejected": {"status": [200, 400], "pointer": "/status", "equals": "rejected"},
    "id": "/id",
    "timeout_s": 5,
}
YES = answer(200, '{"status": "accepted", "id": "abc-1"}')


def make(gateway: Gateway | str, **options: Any) -> Provider:
    """A provider for a gateway, or an address, with these OPTIONS changed."""
    url = gateway if isinstance(gateway, str) else gateway.url
    return Provider("acme", **{**OPTIONS, "url": url, **options})


def outcome(provider: Provider, message: Message = MESSAGE) -> Accepted | ProviderError:
    """What it says of a message, or raises."""
    try:
        return provider.send(message)
    except ProviderError as error:
        return error
