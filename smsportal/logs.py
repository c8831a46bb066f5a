"""What log lines look like, and what is kept out of them: numbers, texts, keys, and whatever else strangers write.

Everything logs through the standard library. The handler passes each record by `HideStrangersWords` and then to
structlog, which renders all of them alike, with what `about()` has said of the request: one line per event.
"""

import logging
import re
import traceback
from types import TracebackType
from typing import Any

import structlog
from django.http import HttpRequest
from structlog.typing import EventDict, Processor

RECEIPT_SECRET = re.compile(r"(/api/providers/[^/\s]+/receipts/)\S+")
OURS = ("method", "route", "status", "ms")  # what our lines have beside their text; Django adds the request

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def about(**facts: str) -> None:
    """Have every line of this request, from here on, say that too: ids, never a number, a text or a key."""
    structlog.contextvars.bind_contextvars(**facts)


def request_id() -> str | None:
    """Of the request under way; None outside of one."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found


def route_of(request: HttpRequest) -> str:
    """The pattern that an address matched, such as `outbox/<uuid:outbox_id>/`; "-" for none.

    The address itself may hold anything: a number, a key, the secret of a provider's callback.
    """
    match = request.resolver_match
    return f"/{match.route}" if match else "-"


class HideStrangersWords(logging.Filter):
    """Django names the address in its lines about a request, or quotes what was wrong with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        if isinstance(request, HttpRequest):
            # "%s: %s" with the address as the last argument; or the words of an exception, without arguments.
            given = record.args if isinstance(record.args, tuple) else ()
            record.args = (*given[:-1], route_of(request)) if given else ()
            record.msg = record.msg if given else "the request was refused"
        record.msg, record.args = RECEIPT_SECRET.sub(r"\1...", record.getMessage()), ()
        return True


def exception_without_words(_: Any, __: str, event: EventDict) -> EventDict:
    """An exception as its kinds and places. Its words may be anybody's: PostgreSQL quotes the row that it refuses."""
    info = event.pop("exc_info", None)
    if isinstance(info, tuple) and info[1] is not None:
        event["exception"] = "\n".join(_places(info[1]))
    return event


def _places(error: BaseException) -> list[str]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    lines = []
    for each in reversed(seen):
        lines += [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(each.__traceback__)]
        lines.append(f"{type(each).__module__}.{type(each).__qualname__}")
    return lines


def formatter(shape: str) -> logging.Formatter:
    """For `LOGGING`. shape: "json", or "console" for a person: key=value."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(allow=OURS),
    ]
    order = ["timestamp", "level", "logger", "event", "request_id"]
    last = (
        structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False)
        if shape == "json"
        else structlog.processors.KeyValueRenderer(key_order=order, drop_missing=True)
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, exception_without_words, last],
    )
