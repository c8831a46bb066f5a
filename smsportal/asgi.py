"""The ASGI entry point, for granian: a request is read whole before it gets a thread, and its answer goes out without.

Whoever sends or reads slowly, or not at all, keeps a socket. The threads, and the database connection that each of them
has, are for requests that can be answered.
"""

import asyncio
import contextlib
import io
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from smsportal.wsgi import application as wsgi_application  # makes Django ready, for what follows

# isort: split
from django.conf import settings
from django.http import HttpResponse
from django.http.response import HttpResponseBase

from smsportal.api.problems import KINDS, RETRY_SECONDS, is_api, problem_response

BODY_S = 10.0  # for the whole body
START_S = 10.0  # how long a whole request waits for a thread
READ_S = 30.0  # how long a client may leave a part of a long answer unread

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

site: Callable[..., Any] = wsgi_application
threads = ThreadPoolExecutor(settings.WEB_THREADS, thread_name_prefix="site")
# An answer that is made as it is sent keeps its thread; the others must always find one.
streaming_room = threading.BoundedSemaphore(max(1, settings.WEB_THREADS // 4))


class Refused(Exception):
    """A request that gets no further; `code` is one of the API's."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class File(NamedTuple):
    """What Django hands over instead of reading it (`wsgi.file_wrapper`): the server sends it from the disk."""

    content: Any
    block_size: int

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.content.read(self.block_size), b"")

    def close(self) -> None:
        self.content.close()


class Answer(NamedTuple):
    """What a thread has come to. body: all of it; or the path of a file; or None when it was sent as it was made."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | str | None

    def start(self) -> dict[str, Any]:
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        return {"type": "http.response.start", "status": self.status, "headers": headers}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request (ASGI 3)."""
    if scope["type"] != "http":
        return
    until = asyncio.get_running_loop().time() + BODY_S
    try:
        body = await _read(scope, receive, until)
    except Refused as refusal:
        await _send(_refusal(scope, refusal.code), send)
        await _drop_the_rest(receive, until)
        return
    try:
        answer = await _in_a_thread(Request(scope, body, receive, send))
    except Refused as refusal:
        answer = _refusal(scope, refusal.code)
    await _send(answer, send)


async def _read(scope: Scope, receive: Receive, until: float) -> bytes:
    """The body. Raises Refused when it is too large, by what is announced or by what comes, or not there in time."""
    try:
        async with asyncio.timeout_at(until):
            return await _whole_body(scope, receive)
    except TimeoutError:
        raise Refused("too_slow") from None


async def _whole_body(scope: Scope, receive: Receive) -> bytes:
    headers = dict(scope["headers"])
    if b"content-length" not in headers and b"transfer-encoding" not in headers and scope["http_version"] != "2":
        return b""
    if int(headers.get(b"content-length", 0)) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise Refused("body_too_large")
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refused("invalid")  # it breaks off; nobody may be there to read the answer
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            raise Refused("body_too_large")
    return bytes(body)


async def _in_a_thread(request: "Request") -> Answer:
    """Raises Refused when none gets free in time."""
    work = threads.submit(request.answer)
    answer = asyncio.wrap_future(work)
    await asyncio.wait([answer], timeout=START_S)
    if work.cancel():  # it has not begun
        raise Refused("unavailable")
    return await answer


async def _send(answer: Answer, send: Send) -> None:
    if answer.body is None:
        return
    await send(answer.start())
    if isinstance(answer.body, str):
        await send({"type": "http.response.pathsend", "path": answer.body})
    else:
        await send({"type": "http.response.body", "body": answer.body})


async def _drop_the_rest(receive: Receive, until: float) -> None:
    """Let a client that sends first and reads afterwards come to its answer, for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            while (await receive()).get("more_body", False):
                pass


def _refusal(scope: Scope, code: str) -> Answer:
    kind = KINDS[code]
    response: HttpResponseBase
    if is_api(scope["path"]):
        response = problem_response(code)
    else:
        response = HttpResponse(f"{kind.title}. {kind.advice}\n", "text/plain", kind.status)
    if code == "unavailable":
        response["Retry-After"] = str(RETRY_SECONDS)
    return Answer(response.status_code, list(response.items()), b"".join(response))


class Request:
    """One whole request, on its way through a thread."""

    def __init__(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        self.scope, self.body, self.send = scope, body, send
        self.loop = asyncio.get_running_loop()
        self.receive = receive

    def answer(self) -> Answer:
        """Have Django answer it."""
        started: list[Any] = []
        body: Any = site(self.environ(), lambda status, headers, *_: started.extend([int(status[:3]), headers]))
        try:
            return self._taken_from(body, *started)
        finally:
            body.close()  # here Django checks what has become of the thread's connection

    def environ(self) -> dict[str, Any]:
        """The request as WSGI describes it (PEP 3333)."""
        scope = self.scope
        server, client = scope["server"] or ("", 0), scope["client"] or ("", 0)
        environ = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
            "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
            "REMOTE_ADDR": client[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope["scheme"],
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        if "http.response.pathsend" in scope.get("extensions", {}):
            environ["wsgi.file_wrapper"] = File
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").upper(), raw_value.decode("latin-1")
            if "_" in name:  # X_Forwarded_Proto would pass for the X-Forwarded-Proto that only a proxy may set
                continue
            key = name.replace("-", "_") if name == "CONTENT-TYPE" else f"HTTP_{name.replace('-', '_')}"
            environ[key] = f"{environ[key]}{';' if name == 'COOKIE' else ','}{value}" if key in environ else value
        environ.pop("HTTP_CONTENT_LENGTH", None)
        return environ | {"CONTENT_LENGTH": str(len(self.body))}

    def _taken_from(self, body: Any, status: int, headers: list[tuple[str, str]]) -> Answer:
        if isinstance(body, File) and isinstance(getattr(body.content, "name", None), str):
            return Answer(status, headers, os.path.abspath(body.content.name))
        if not getattr(body, "streaming", False) or isinstance(body, File):
            return Answer(status, headers, b"".join(body))
        if not streaming_room.acquire(blocking=False):
            return _refusal(self.scope, "unavailable")
        try:
            self._stream(body, Answer(status, headers, None))
        finally:
            streaming_room.release()
        return Answer(status, headers, None)

    def _stream(self, parts: Iterable[bytes], answer: Answer) -> None:
        """Send the parts as they are made, each when there is room for it. Ends early when the client is gone."""
        gone = asyncio.run_coroutine_threadsafe(self._gone(), self.loop)
        with contextlib.suppress(TimeoutError):  # a client that does not read is taken for gone
            self._send_now(answer.start())
            for part in parts:
                if gone.done():
                    break
                self._send_now({"type": "http.response.body", "body": part, "more_body": True})
            self._send_now({"type": "http.response.body", "body": b"", "more_body": False})
        gone.cancel()

    async def _gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def _send_now(self, message: dict[str, Any]) -> None:
        async def sent() -> None:
            async with asyncio.timeout(READ_S):
                await self.send(message)

        asyncio.run_coroutine_threadsafe(sent(), self.loop).result()
