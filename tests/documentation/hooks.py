"""What Schemathesis cannot know from the schema: real phone numbers, readable texts, times to come; loaded by it."""

import base64
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import schemathesis
from hypothesis import strategies as st

LETTERS = st.characters(codec="utf-8", categories=["L", "N", "P", "S"])
PRINTABLE = st.characters(codec="utf-8", exclude_categories=["C"]) | st.just("\n")
# One of each fate that the simulator knows, by its last digits.
NUMBERS = st.integers(0, 9).map(lambda digit: f"+25471234560{digit}")


def around(middle: Any, rest: Any) -> Any:
    """Texts of at least one character of `middle`, and any of `rest` around it."""
    return st.builds("{}{}{}".format, st.text(rest, max_size=20), middle, st.text(rest, max_size=20))


def cursor_at(position: Any) -> str:
    return base64.b64encode(f"p={position}".encode()).decode()


schemathesis.openapi.format("phone-number", NUMBERS)
schemathesis.openapi.format("sms-text", around(LETTERS, PRINTABLE))
schemathesis.openapi.format("line", around(LETTERS, LETTERS | st.just(" ")))
schemathesis.openapi.format("sender-id", st.just("MYBRAND") | st.from_regex(r"\A[A-Z][A-Z0-9]{1,9}\Z"))
schemathesis.openapi.format("email", st.from_regex(r"\A[a-z]{1,9}@example\.com\Z"))
schemathesis.openapi.format("webhook-url", st.from_regex(r"\Ahttp://127\.0\.0\.1:9/[a-z]{0,9}\Z"))
schemathesis.openapi.format("cursor", st.uuids().map(cursor_at))
schemathesis.openapi.format(
    "date-time",
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)).map(lambda moment: f"{moment.isoformat()}Z"),  # noqa: DTZ001
)


@schemathesis.hook
def before_call(context: Any, case: Any, _: Any) -> None:
    """Call nothing but this machine, schedule for times to come, and let most messages be new and one's own."""
    if case.path == "/api/billing/statement" and isinstance(case.query, dict) and is_cursor(case.query.get("cursor")):
        case.query["cursor"] = cursor_at(9)  # postings are numbered, all else in lists has UUIDs
    if not isinstance(case.body, dict):
        return
    if case.body.get("messageId") == "order-7781":  # the example's, which another message has
        case.body["messageId"] = str(uuid.uuid4())
    if is_uuid(case.body.get("userId")) and case.body["userId"][-1] in "0123456789abcde":
        del case.body["userId"]
    if isinstance(case.body.get("customData"), dict):
        case.body["customData"] = with_short_names(case.body["customData"])
    if is_address(case.body.get("url")):
        case.body["url"] = f"http://127.0.0.1:9/{uuid.uuid4()}"
    if is_instant(case.body.get("scheduleTimestamp")):
        case.body["scheduleTimestamp"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def is_cursor(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("cD")  # p=


def with_short_names(data: Any) -> Any:
    """The same with names of at most 128 characters, a limit that OpenAPI 3.0 has no word for."""
    if isinstance(data, dict):
        return {name[:128]: with_short_names(value) for name, value in data.items()}
    return [with_short_names(value) for value in data] if isinstance(data, list) else data


def is_address(url: Any) -> bool:
    """Whether the portal would look its host up."""
    try:
        return isinstance(url, str) and bool(urlsplit(url).hostname)
    except ValueError:
        return False


def is_uuid(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(uuid.UUID(text))
    except ValueError:
        return False


def is_instant(text: Any) -> bool:
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
