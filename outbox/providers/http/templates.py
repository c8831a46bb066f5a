"""Placeholders: what a request's template may name of a message, and how its values are put in."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from outbox.providers.base import Message

PLACEHOLDERS: dict[str, Callable[[Message], str]] = {
    "recipient": lambda message: message.recipient,
    "msisdn": lambda message: message.recipient.removeprefix("+"),
    "text": lambda message: message.text,
    "sender_id": lambda message: message.sender_id,
    "reference": lambda message: message.reference,
    "encoding": lambda message: message.encoding,
}
NAME = re.compile(r"\{(\w+)\}", re.ASCII)


class _LeftOut:
    """Stands for a field that is not sent."""


LEFT_OUT = _LeftOut()


def values_of(message: Message) -> dict[str, str]:
    """What each placeholder stands for in this message."""
    return {name: value(message) for name, value in PLACEHOLDERS.items()}


def fill(template: Any, values: Mapping[str, str]) -> Any:
    """The template with its placeholders replaced, in one pass: what a value holds is never read as a placeholder.

    A field that is {sender_id} and nothing else is left out when there is none: the provider's own default holds.
    """
    if isinstance(template, str):
        if template == "{sender_id}" and not values["sender_id"]:
            return LEFT_OUT
        return NAME.sub(lambda name: values[name[1]], template)
    if isinstance(template, dict):
        return {key: value for key, part in template.items() if (value := fill(part, values)) is not LEFT_OUT}
    if isinstance(template, list):
        return [value for part in template if (value := fill(part, values)) is not LEFT_OUT]
    return template


def names_in(template: Any) -> Iterator[str]:
    """The names of all placeholders in a template."""
    if isinstance(template, str):
        yield from NAME.findall(template)
    elif isinstance(template, dict):
        for part in template.values():
            yield from names_in(part)
    elif isinstance(template, list):
        for part in template:
            yield from names_in(part)
