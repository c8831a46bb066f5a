"""A provider that misbehaves: an HTTP server for a process of its own, with a journal of what it took.

    python -m tests.hostile.provider --port 0 --journal FILE --modes accept/late=8,hang/late=1,reset/never=1 --seed 7

It prints {"port": N} when it listens. A message is a POST of {"to", "text", "reference", "receipt"} to any address. It
is met in a mode: what is answered, a slash, and how receipts are sent ("hang/early"; without a slash: never). A text
that begins with `mode:` names it ("mode:busy,hang/late": the first time, and all other times); else the weights of
--modes and the seed choose, by number, text and how often the message has come, so that a run can be repeated.

The journal has a line {"reference", "to", "text", "mode", "id"} for each message taken, safe on the disk before
anything is answered or a receipt sent; what was refused has none. It goes on where an earlier process has ended.

POST /control/receipts {"manner", "references"} sends receipts for what is in the journal (references null: for all of
it) and answers with the HTTP status that each of them met. POST /control/flood {"manner", "per_second", "seconds"}
sends them at that rate over 64 connections, going through the journal again and again, and answers with a list of
[status, seconds since its time came].
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import random
import signal
import socket
import struct
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Document = dict[str, Any]
MEGABYTE = 1_000_000
LATEST_RECEIPT_S = 1.0  # after the answer
POSTS_AT_ONCE = 16
FLOOD_LINES = 64


@dataclass(frozen=True)
class Call:
    """One message on its connection; id: what we call it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    id: str

    async def say(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def until_the_caller_leaves(self) -> None:
        await self.reader.read()


# What a mode does with the connection; it is closed afterwards, unless that returns True.
Answer = Callable[[Call], Awaitable[bool | None]]


def http(status: int, body: bytes | str = b"", **headers: str) -> bytes:
    """A well-formed answer."""
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def yes(call: Call) -> bytes:
    return http(200, json.dumps({"status": "accepted", "id": call.id}))


# --- it takes the message, and then -----------------------------------------------------------------------------------


async def accept(call: Call) -> bool:
    await call.say(yes(call))
    return True


async def slow(call: Call) -> bool:
    await asyncio.sleep(random.uniform(0, 0.4))
    return await accept(call)


async def reset(call: Call) -> None:
    sock = call.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    call.writer.transport.abort()


async def end_early(call: Call) -> None:
    """Close without a byte."""


async def drip(call: Call, quick: int) -> None:
    """So many bytes at once, and then one a second."""
    await call.say(yes(call)[:quick])
    for byte in yes(call)[quick:]:
        await asyncio.sleep(1)
        await call.say(bytes([byte]))


async def flood(call: Call) -> None:
    """200 MB that begin well."""
    await call.say(
        b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % (200 * MEGABYTE),
        json.dumps({"status": "accepted", "id": call.id}).encode()[:-1],
    )
    for _ in range(200):
        await call.say(b" " * MEGABYTE)


async def bomb(call: Call) -> None:
    """200 kB that would be 200 MB."""
    beginning = gzip.compress(json.dumps({"status": "accepted", "id": call.id}).encode()[:-1])
    await call.say(http(200, beginning + gzip.compress(b" " * MEGABYTE) * 200, Content_Encoding="gzip"))


async def endless_headers(call: Call) -> None:
    await call.say(b"HTTP/1.1 200 X\r\n", *[b"X: " + b"y" * 8000 + b"\r\n"] * 1000)


async def hang(call: Call) -> None:
    await call.until_the_caller_leaves()


async def twice(call: Call) -> bool:
    """The same answer twice on one connection."""
    await accept(call)
    await asyncio.sleep(random.choice([0, 0.0005, 0.002, 0.01]))
    return await accept(call)


def says(answer: bytes) -> Answer:
    async def say(call: Call) -> bool:
        await call.say(answer)
        return True

    return say


async def cut_off(call: Call) -> None:
    """A body shorter than announced."""
    await call.say(yes(call)[:-5])


async def half_a_document(call: Call) -> bool:
    """A whole answer that holds half of its JSON."""
    await call.say(http(200, json.dumps({"status": "accepted", "id": call.id})[:-9]))
    return True


HTML = "<!doctype html><title>Welcome</title><p>Sign in"

TOOK_IT: dict[str, Answer] = {
    "accept": accept,
    "slow": slow,
    "same-id": accept,  # the id of all other messages, see _id()
    "twice": twice,
    "hang": hang,
    "reset": reset,
    "end-early": end_early,
    "cut-off": cut_off,
    "half-json": half_a_document,
    "html": says(http(200, HTML, Content_Type="text/html")),
    "empty": says(http(200)),
    "strange-word": says(http(200, '{"status": "queued"}')),
    "other-2xx": says(http(202)),
    "garbage": says(b"220 smtp.example ESMTP\r\n\r\n"),
    "500": says(http(500, HTML)),
    "502": says(http(502, HTML)),
    "504": says(http(504, HTML)),
    "drip": partial(drip, quick=0),
    "drip-body": partial(drip, quick=60),
    "flood": flood,
    "bomb": bomb,
    "endless-headers": endless_headers,
}


# --- it does not take it ----------------------------------------------------------------------------------------------


def retry_after_forms() -> dict[str, str | None]:
    """Every form of Retry-After, good and bad."""
    return {
        "seconds": "2",
        "date": formatdate(time.time() + 120, usegmt=True),
        "past": formatdate(time.time() - 120, usegmt=True),
        "absent": None,
        "negative": "-5",
        "huge": "1000000000",
        "text": "soon",
    }


async def throttle(call: Call, form: str, status: int = 429) -> bool:
    value = retry_after_forms()[form]
    await call.say(http(status, **({} if value is None else {"Retry_After": value})))
    return True


async def redirect(call: Call) -> bool:
    """To ourselves: whoever follows is taken in."""
    host, port = call.writer.get_extra_info("sockname")[:2]
    await call.say(http(307, Location=f"http://{host}:{port}/elsewhere"))
    return True


REFUSED: dict[str, Answer] = {
    **{f"throttle-{form}": partial(throttle, form=form) for form in retry_after_forms()},
    "busy": partial(throttle, form="seconds", status=503),
    "busy-absent": partial(throttle, form="absent", status=503),
    "reject": says(http(400, '{"status": "rejected"}')),
    "reject-inside": says(http(200, '{"status": "rejected"}')),
    "credentials": says(http(401, HTML)),
    "forbidden": says(http(403, HTML)),
    "no-credit": says(http(402, HTML)),
    "redirect": redirect,
    # It lost the message and does not say so: to the caller the same as one that took it.
    "lost-500": says(http(500, HTML)),
    "lost-hang": hang,
    "lost-reset": reset,
}

# It takes the message, and says in so many words that it did not. No caller can tell; the message comes again.
LIES: dict[str, Answer] = {
    "taken-429": partial(throttle, form="absent"),
    "taken-503": partial(throttle, form="absent", status=503),
}

MODES = TOOK_IT | REFUSED | LIES


# --- receipts ---------------------------------------------------------------------------------------------------------

# The statuses a manner sends, one after the other.
MANNERS: dict[str, list[str]] = {
    "never": [],
    "early": ["delivered"],  # before the answer
    "late": ["delivered"],
    "double": ["delivered"] * 2,
    "in-order": ["sent", "delivered"],
    "reordered": ["delivered", "sent"],
    "contradicting": ["delivered", "failed"],
    "undelivered": ["failed"],
    "forged": ["failed"],  # to an address with a token that is not ours
    "for-nobody": ["delivered"],  # with a reference that nobody knows
}


def _receipts(manner: str, entry: Document, url: str) -> list[tuple[str, Document]]:
    """The address and the document of each receipt for a line of the journal."""
    reference, provider_id = entry["reference"], entry["id"]
    if manner == "forged":
        url = url.replace(urlsplit(url).path.rpartition("/")[2], "forged", 1)
    if manner == "for-nobody":
        url, reference, provider_id = url.partition("?")[0], str(uuid.uuid4()), f"nobody-{uuid.uuid4()}"
    return [(url, {"reference": reference, "id": provider_id, "status": status}) for status in MANNERS[manner]]


# --- the server -------------------------------------------------------------------------------------------------------


class Journal:
    """The lines of a file, each safe on the disk when add() returns."""

    def __init__(self, path: Path) -> None:
        self.entries: list[Document] = []
        if path.exists():
            self.entries = [json.loads(line) for line in path.read_text().splitlines()]
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, entry: Document) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")
        os.fsync(self._file)
        self.entries.append(entry)


class Server:
    """receipts: where they go, with {reference}; empty: to the address that came with the message."""

    def __init__(self, journal: Journal, *, receipts: str = "", seed: int = 0, modes: str = "accept/late") -> None:
        self.journal = journal
        self.weights = {
            mode: float(weight or 1) for mode, _, weight in (one.partition("=") for one in modes.split(","))
        }
        for mode in self.weights:
            _split(mode)
        self.seed = seed
        self._receipts = receipts
        self._addresses: dict[str, str] = {}  # of receipts, by reference
        self._times: Counter[str] = Counter()  # each message has come
        self._posts = asyncio.Semaphore(POSTS_AT_ONCE)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._keep(asyncio.current_task())  # else it may be collected as garbage in the middle of an answer
        with contextlib.suppress(OSError, EOFError):
            while request := await _read(reader):
                target, body = request
                if target == "/control/receipts":
                    writer.write(http(200, json.dumps(await self._post_all(**json.loads(body)))))
                elif target == "/control/flood":
                    writer.write(http(200, json.dumps(await self._flood(**json.loads(body)))))
                elif not await self._meet(json.loads(body), reader, writer):
                    break
        writer.close()

    async def _meet(self, message: Document, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool | None:
        mode = self._mode(message)
        answer, manner = _split(mode)
        call = Call(reader, writer, self._id(message, answer))
        self._addresses[message["reference"]] = message.get("receipt") or ""
        if answer in REFUSED:
            return await MODES[answer](call)
        entry = {name: message.get(name) for name in ("reference", "to", "text")} | {"mode": mode, "id": call.id}
        self.journal.add(entry)
        if manner == "early":
            await self._post(manner, entry)
        else:
            self._later(self._post(manner, entry, random.uniform(0, LATEST_RECEIPT_S)))
        return await MODES[answer](call)

    def _mode(self, message: Document) -> str:
        self._times[message["reference"]] += 1
        times = self._times[message["reference"]]
        if message["text"].startswith("mode:"):
            named = message["text"].split()[0].removeprefix("mode:").split(",")
            return str(named[min(times, len(named)) - 1])
        chance = random.Random(f"{self.seed}/{message['to']}/{message['text']}/{times}")
        return chance.choices(list(self.weights), list(self.weights.values()))[0]

    def _id(self, message: Document, answer: str) -> str:
        return "always-the-same" if answer == "same-id" else f"{message['reference']}.{len(self.journal.entries)}"

    # --- receipts -----------------------------------------------------------------------------------------------------

    def _later(self, work: Any) -> None:
        self._keep(asyncio.ensure_future(work))

    def _keep(self, task: "asyncio.Task[Any] | None") -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post_all(self, manner: str, references: list[str] | None = None) -> list[int]:
        entries = [one for one in self.journal.entries if references is None or one["reference"] in references]
        return [
            status
            for statuses in await asyncio.gather(*(self._post(manner, one) for one in entries))
            for status in statuses
        ]

    async def _flood(self, manner: str, per_second: float, seconds: float) -> list[tuple[int, float]]:
        begun = time.monotonic()
        numbers = iter(range(int(per_second * seconds)))
        posts: list[tuple[int, float]] = []

        async def post_in_turn() -> None:
            with contextlib.closing(Line()) as line:
                for number in numbers:
                    due = begun + number / per_second
                    await asyncio.sleep(due - time.monotonic())
                    entry = self.journal.entries[number % len(self.journal.entries)]
                    for receipt in _receipts(manner, entry, self._address(entry)):
                        posts.append((await line.post(*receipt), time.monotonic() - due))  # noqa: PERF401

        await asyncio.gather(*(post_in_turn() for _ in range(FLOOD_LINES)))
        return posts

    def _address(self, entry: Document) -> str:
        """Where the receipts of a message go, or ""."""
        reference = entry["reference"]
        return self._receipts.format(reference=reference) or self._addresses.get(reference, "")

    async def _post(self, manner: str, entry: Document, after_s: float = 0) -> list[int]:
        """Send the receipts for a message, one after the other; returns their HTTP statuses, 0 for none."""
        if not (url := self._address(entry)):
            return []
        await asyncio.sleep(after_s)
        async with self._posts:
            with contextlib.closing(Line()) as line:
                return [await line.post(*receipt) for receipt in _receipts(manner, entry, url)]


def _split(mode: str) -> tuple[str, str]:
    """The answer and the manner of a mode. Raises ValueError."""
    answer, _, manner = mode.partition("/")
    manner = manner or "never"
    if answer not in MODES or manner not in MANNERS:
        raise ValueError(f"no such mode: {mode}; there are {', '.join(MODES)}, each with /{', /'.join(MANNERS)}")
    return answer, manner


async def _read(reader: asyncio.StreamReader) -> tuple[str, bytes] | None:
    """A request's target, or an answer's status, and the body; None when the connection has ended."""
    if not (line := await reader.readline()):
        return None
    length = 0
    while (header := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return line.split()[1].decode(), await reader.readexactly(length)


class Line:
    """A connection for receipts, kept for the next one."""

    def __init__(self) -> None:
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, url: str, document: Document) -> int:
        """POST a document; the HTTP status, 0 when there was none."""
        to, body = urlsplit(url), json.dumps(document).encode()
        head = f"POST {to.path}?{to.query} HTTP/1.1\r\nHost: {to.netloc}\r\nContent-Type: application/json\r\n"
        try:
            reader, writer = self._streams = self._streams or await asyncio.open_connection(to.hostname, to.port)
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await _read(reader)
        except (OSError, EOFError):
            answer = None
        if answer is None:
            self.close()
        return int(answer[0]) if answer else 0

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None


async def run(port: int, server: Server) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", port, backlog=512)
    print(json.dumps({"port": listener.sockets[0].getsockname()[1]}), flush=True)
    await over.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--receipts", default="", metavar="URL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", default="accept/late", metavar="SPEC")
    given = parser.parse_args()
    server = Server(Journal(given.journal), receipts=given.receipts, seed=given.seed, modes=given.modes)
    asyncio.run(run(given.port, server))


if __name__ == "__main__":
    main()
