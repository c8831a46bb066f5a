"""JSON bodies, read strictly: what two readers could understand differently is refused."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from django.conf import settings
from django.utils.http import parse_header_parameters
from rest_framework import exceptions, status
from rest_framework.parsers import BaseParser

MAX_DEPTH = 16
# Strings, to be passed over, and brackets. Possessive (*+): a string that never ends is read once, not again from each
# of its quotes.
STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
# NUL and lone surrogates: PostgreSQL stores neither, and no other program reads them alike.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class BodyTooLarge(exceptions.APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"
    default_detail = f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes."


class StrictJSONParser(BaseParser):
    """One JSON object in UTF-8: no name twice, no NaN, no NUL, no lone surrogate, depth and size bounded."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        charset = parse_header_parameters(media_type or "")[1].get("charset", "utf-8")
        if charset.lower() not in ("utf-8", "utf8"):
            raise exceptions.UnsupportedMediaType(media_type or "")
        return parse_object(_read(stream))


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises ParseError when it is anything else, ValidationError naming the field."""
    try:
        text = body.decode("utf-8")
        _refuse_depth(text)
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number)
    except UnicodeDecodeError as error:
        raise exceptions.ParseError("The body is not valid UTF-8.") from error
    except ValueError as error:
        raise exceptions.ParseError(f"The body is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise exceptions.ParseError("The body must be a JSON object.")
    for name, value in data.items():
        if _unstorable(name) or _unstorable(value):
            printable = UNSTORABLE.sub("�", name)
            raise exceptions.ValidationError(
                {printable: "NUL characters and lone surrogates are not allowed."}, code="invalid_characters"
            )
    return data


def _read(stream: Any) -> bytes:
    limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    body: bytes = stream.read(limit + 1)
    if len(body) > limit:
        raise BodyTooLarge
    return body


def _refuse_depth(text: str) -> None:
    """Bound the nesting before the parser recurses into it: how deep it can go differs between Pythons."""
    depth = 0
    for token in STRUCTURE.finditer(text):
        if token[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise exceptions.ParseError(f"The body is nested deeper than {MAX_DEPTH} levels.")
        elif token[0] in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {UNSTORABLE.sub('�', twice)!r} stands twice")
    return found


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unstorable(value: Any) -> bool:
    match value:
        case str():
            return UNSTORABLE.search(value) is not None
        case list():
            return any(map(_unstorable, value))
        case dict():
            return any(map(_unstorable, value)) or any(map(_unstorable, value.values()))
    return False
