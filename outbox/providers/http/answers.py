"""Reading what a provider says: JSON pointers, values made fit to store, and the rules of OPTIONS."""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from outbox.providers.base import as_id
from smsportal.calls import Answer

MISSING = object()  # what a pointer gives that leads nowhere; JSON's null is a value
_ESCAPES = re.compile(r"~(?![01])")


def read_json(body: bytes) -> Any:
    """The document in the body, or MISSING when it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return MISSING


def check_pointer(pointer: Any, option: str) -> str:
    """The pointer, if it is one (RFC 6901). Raises ValueError."""
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")) or _ESCAPES.search(pointer):
        raise ValueError(f"{option}: {pointer!r} is not a JSON pointer, for example /messages/0/id.")
    return pointer


def look_up(document: Any, pointer: str) -> Any:
    """What the JSON pointer (RFC 6901) leads to, else MISSING."""
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(key, MISSING)
        elif isinstance(document, list) and re.fullmatch("0|[1-9][0-9]{0,8}", key) and int(key) < len(document):
            document = document[int(key)]
        else:
            return MISSING
    return document


def check_regex(pattern: Any, option: str) -> re.Pattern[str]:
    """The compiled expression. Raises ValueError."""
    try:
        return re.compile(pattern)
    except (TypeError, re.error) as error:
        raise ValueError(f"{option}: {pattern!r} is not a regular expression: {error}.") from None


@dataclass(frozen=True)
class Rule:
    """One form of answer: its statuses and, where given, what its body must say."""

    statuses: frozenset[int]
    pointer: str | None = None
    equals: Any = None
    matches: re.Pattern[str] | None = None

    @classmethod
    def read(cls, option: str, given: Any) -> "Rule":
        """A rule as OPTIONS give it. Raises ValueError."""
        if not isinstance(given, dict) or (unknown := given.keys() - {"status", "pointer", "equals", "matches"}):
            what = f"does not know {', '.join(sorted(unknown))}" if isinstance(given, dict) else "must be an object"
            raise ValueError(f"{option}: {what}; it holds `status` and `pointer` with `equals`, or `matches`.")
        statuses = given.get("status")
        if not isinstance(statuses, list) or not statuses or not all(type(one) is int for one in statuses):
            raise ValueError(f"{option}: `status` must list HTTP statuses, for example [200].")
        if ("pointer" in given) != ("equals" in given) or ("pointer" in given and "matches" in given):
            raise ValueError(f"{option}: give `pointer` with `equals`, or `matches` in their place.")
        return cls(
            frozenset(statuses),
            check_pointer(given["pointer"], f"{option}: pointer") if "pointer" in given else None,
            given.get("equals"),
            check_regex(given["matches"], f"{option}: matches") if "matches" in given else None,
        )

    @property
    def reads_the_body(self) -> bool:
        return self.pointer is not None or self.matches is not None

    def fits(self, answer: Answer, document: Any) -> bool:
        """Whether the answer, whose body holds this JSON document, is of this form."""
        if answer.status not in self.statuses:
            return False
        if self.matches is not None:
            return bool(self.matches.search(answer.body.decode("utf-8", "replace")))
        if self.pointer is None:
            return True
        value = look_up(document, self.pointer)
        # Python holds True and 1 for the same, JSON does not.
        return isinstance(value, bool) == isinstance(self.equals, bool) and bool(value == self.equals)


def read_rules(option: str, given: Any) -> list[Rule]:
    """One rule or a list of them. Raises ValueError."""
    if given is None:
        return []
    return [Rule.read(option, one) for one in (given if isinstance(given, list) else [given])]


class IdFinder:
    """Where an answer holds the provider's id: a JSON pointer, or {"matches": expression with one group}."""

    def __init__(self, given: Any) -> None:
        self._pointer: str | None = None
        self._matches: re.Pattern[str] | None = None
        if isinstance(given, dict):
            self._matches = check_regex(given.get("matches"), "id: matches")
            if given.keys() != {"matches"} or self._matches.groups != 1:
                raise ValueError("id: give a JSON pointer, or `matches` with exactly one group.")
        elif given is not None:
            self._pointer = check_pointer(given, "id")

    def find(self, answer: Answer, document: Any) -> str | None:
        """The id, or None."""
        if self._matches:
            found = self._matches.search(answer.body.decode("utf-8", "replace"))
            return as_id(found[1]) if found else None
        return as_id(look_up(document, self._pointer)) if self._pointer is not None else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that Retry-After (RFC 9110, 10.2.3) asks for, not yet bounded; None when it says nothing of use."""
    given = headers.get("Retry-After", "").strip()
    try:
        seconds = float(given)
    except ValueError:
        moment, now = _moment(given), _moment(headers.get("Date", ""))
        if moment is None:
            return None
        # By the clock that wrote it: ours may be wrong, or the server's, and the pause is right all the same.
        seconds = moment - (time.time() if now is None else now)
    return seconds if math.isfinite(seconds) else None


def _moment(http_date: str) -> float | None:
    """An HTTP-date (RFC 9110, 5.6.7) in seconds since 1970; None when it is none. One without a zone is in UTC."""
    try:
        parsed = parsedate_to_datetime(http_date)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
