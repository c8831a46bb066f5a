"""What a message may look like. One rule a function; each returns the clean value or raises ValidationError."""

import json
import re
import unicodedata
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError

from outbox import msisdn

MAX_TAGS = 20
MAX_TAG_LENGTH = 64
MAX_NAME_LENGTH = 128
MAX_CUSTOM_DATA_BYTES = 4096
MAX_CUSTOM_DATA_DEPTH = 4
MAX_CUSTOM_DATA_KEY_LENGTH = 128
MAX_VALIDITY_MINUTES = 7 * 24 * 60
MAX_SCHEDULE_AHEAD = timedelta(days=365)

# Control characters but tab, line feed and carriage return; surrogates; what Unicode promises never to be a character.
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# GSM networks carry at most 11 characters of a name; without a letter it would pass for somebody's number.
SENDER_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9](?:[A-Za-z0-9 ]{0,9}[A-Za-z0-9])?")


def clean_recipient(typed: str) -> str:
    """The number in E.164."""
    try:
        return msisdn.normalize(typed, settings.SMS_DEFAULT_REGION or None)
    except msisdn.InvalidNumber as error:
        raise ValidationError(str(error), code=error.code) from error


def clean_text(text: str) -> str:
    """The text as it came, if there is anything to read in it."""
    _refuse_unprintable(text)
    # Spaces, zero-width characters and lone combining marks show nothing on a handset, and would still cost.
    if not any(unicodedata.category(character)[0] in "LNPS" for character in text):
        raise ValidationError("The message is blank.", code="blank")
    return text


def is_sender_name(sender_id: str) -> bool:
    """Whether it is 1 to 11 ASCII letters, digits and inner spaces with a letter in it."""
    return SENDER_NAME.fullmatch(sender_id) is not None


def clean_name(name: str) -> str:
    """An id or a name of the caller's: 1 to 128 characters on one line."""
    _refuse_unprintable(name)
    if not name.strip() or len(name) > MAX_NAME_LENGTH or re.search(r"[\t\r\n]", name):
        raise ValidationError(f"Must be 1 to {MAX_NAME_LENGTH} characters on one line.", code="invalid_name")
    return name


def clean_tags(tags: list[str]) -> list[str]:
    if len(tags) > MAX_TAGS:
        raise ValidationError(f"At most {MAX_TAGS} tags.", code="too_many_tags")
    for tag in tags:
        _refuse_unprintable(tag)
        if not tag.strip() or len(tag) > MAX_TAG_LENGTH:
            raise ValidationError(f"Each tag has 1 to {MAX_TAG_LENGTH} characters.", code="invalid_tag")
    if len(set(tags)) < len(tags):
        raise ValidationError("A tag stands twice.", code="duplicate_tag")
    return tags


def clean_custom_data(data: dict[str, Any]) -> dict[str, Any]:
    if _depth(data) > MAX_CUSTOM_DATA_DEPTH:
        raise ValidationError(f"Nested deeper than {MAX_CUSTOM_DATA_DEPTH} levels.", code="too_deep")
    if len(json.dumps(data, ensure_ascii=False).encode()) > MAX_CUSTOM_DATA_BYTES:
        raise ValidationError(f"Larger than {MAX_CUSTOM_DATA_BYTES:,} bytes.", code="too_large")
    if any(len(key) > MAX_CUSTOM_DATA_KEY_LENGTH for key in _keys(data)):
        raise ValidationError(f"Names have at most {MAX_CUSTOM_DATA_KEY_LENGTH} characters.", code="name_too_long")
    return data


def clean_schedule(scheduled_at: datetime, now: datetime) -> datetime:
    if not now < scheduled_at <= now + MAX_SCHEDULE_AHEAD:
        raise ValidationError("Must be in the future, and at most one year ahead.", code="not_in_the_future")
    return scheduled_at


def clean_validity(minutes: int) -> int:
    if not 1 <= minutes <= MAX_VALIDITY_MINUTES:
        raise ValidationError(f"Must be from 1 to {MAX_VALIDITY_MINUTES}.", code="out_of_range")
    return minutes


def clean_idempotency_key(key: str) -> str:
    """1 to 255 printable ASCII characters without a comma: a header that came twice arrives joined by one."""
    if not re.fullmatch(r"[ -+\--~]{1,255}", key):
        raise ValidationError("Must be 1 to 255 printable ASCII characters, no comma.", code="invalid_idempotency_key")
    return key


def _refuse_unprintable(text: str) -> None:
    if UNPRINTABLE.search(text):
        raise ValidationError("Control characters and lone surrogates are not allowed.", code="invalid_characters")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in _keys(inner))]
    if isinstance(value, list):
        return [key for inner in value for key in _keys(inner)]
    return []
