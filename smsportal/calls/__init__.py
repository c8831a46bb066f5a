"""One HTTP call that can be trusted: a single deadline, and evidence of whether anything left.

It stands on requests' adapter without requests' Session: what a Session adds is what must not happen to a message
(redirects followed with the body, cookies kept, proxies and .netrc taken from the environment).

The evidence: the connection notes when the first byte of the request is about to be written. Before that, whatever
goes wrong left nothing; after it, whatever goes wrong may have sent the message. No exception's class is trusted:
requests' ConnectionError is both.
"""

import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from smsportal.calls.connections import LIMIT, Evidence, RestingPool, RestingTLSPool, TooLongError, current

# At DEBUG, and for odd headers at WARNING, urllib3 logs addresses with their query: numbers, texts and passwords.
logging.getLogger("urllib3").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Answer:
    """What the server said. whole: False when the body was cut at LIMIT."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class CallFailed(Exception):
    """No whole answer came. handed_over: whether a byte of the request may have left.

    late: the deadline had passed. securing: it was the secure connection that failed. trouble: why there was no
    connection, in words that hold nothing of the request.
    """

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence.trouble)
        self.handed_over = evidence.handed_over
        self.late = time.monotonic() >= evidence.deadline
        self.securing = evidence.securing
        self.trouble = evidence.trouble


@cache
def _trusted_authorities() -> ssl.SSLContext:
    """The machine's certificate authorities (so a private one can be added there) and the public ones."""
    context = ssl.create_default_context()
    context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
    return context


class _Adapter(HTTPAdapter):
    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__(max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": RestingPool, "https": RestingTLSPool}

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the one context knows its authorities; loading them for each connection costs tens of ms."""


class Caller:
    """Makes calls over kept connections; serves any number of threads."""

    def __init__(self, *, may_connect: Callable[[str], bool] = lambda address: True) -> None:
        """may_connect: whether an IP address, as the name was resolved, may be connected to."""
        self._adapter = _Adapter(_trusted_authorities())
        self._may_connect = may_connect

    def call(self, request: requests.PreparedRequest, seconds: float) -> Answer:
        """The answer to a request, all within `seconds`. Never sent twice, never redirected.

        Raises CallFailed.
        """
        reuse = "close" not in _text(request.headers.get("Connection", "")).lower()
        call = current.call = Evidence(seconds, reuse=reuse, may_connect=self._may_connect)
        try:
            return self._exchange(request, seconds)
        except Exception:  # noqa: BLE001  # whatever it was: the evidence decides, not its class
            failure = CallFailed(call)
        finally:
            current.call = None
        # Outside of the handler, so that the cause is not chained: its text holds the address and its query.
        raise failure

    def _exchange(self, request: requests.PreparedRequest, seconds: float) -> Answer:
        response = self._adapter.send(request, stream=True, timeout=seconds)
        try:
            body, whole = _read(response.raw)
        finally:
            response.raw.close()  # also the connection, unless it went back whole
        return Answer(response.status_code, response.headers, body, whole)

    def close(self) -> None:
        """Close the kept connections."""
        self._adapter.close()


def _read(raw: Any) -> tuple[bytes, bool]:
    body = b""
    with contextlib.suppress(TooLongError):
        while len(body) < LIMIT:
            # urllib3 decodes no further than what is asked for: a gzip bomb stays packed.
            piece = raw.read(min(8192, LIMIT - len(body)), decode_content=True)
            if not piece:
                return body, True
            body += piece
    return body, False


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
