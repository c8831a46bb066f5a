"""Reading JSON without guessing, and writing money and times the one way."""

import difflib
from decimal import Decimal
from typing import Any, cast

from rest_framework import serializers


class StrictSerializer(serializers.Serializer):
    """Refuses names it does not know, so that a misspelt option never passes for its default."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = sorted(set(data) - set(self.fields))
        errors = {name: [serializers.ErrorDetail(self._no_such_field(name), "unknown_field")] for name in unknown}
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            raise serializers.ValidationError(errors | cast(dict[str, Any], error.detail)) from error
        if errors:
            raise serializers.ValidationError(errors)
        return value

    def _no_such_field(self, name: str) -> str:
        alike = difflib.get_close_matches(name[:64], self.fields, n=1)
        return (
            f"There is no field of this name. Did you mean {alike[0]}?" if alike else "There is no field of this name."
        )


class Described(serializers.Field):
    """A field whose rules stand elsewhere: `described` tells them to the OpenAPI document, in JSON Schema."""

    def __init__(self, *args: Any, described: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.described = described or {}
        super().__init__(*args, **kwargs)


class Text(Described, serializers.CharField):
    """A JSON string, kept as it came: a number is no text, and spaces are the sender's own."""

    default_error_messages = {"not_a_string": "Must be a string."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if data is not serializers.empty and data is not None and not isinstance(data, str):
            self.fail("not_a_string")
        return super().run_validation(data)


class WholeNumber(Described, serializers.IntegerField):
    """A JSON integer: no string, no fraction, no true."""

    default_error_messages = {"not_a_number": "Must be a whole number."}

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            self.fail("not_a_number")
        return int(super().to_internal_value(data))


class Texts(Described, serializers.ListField):
    """A JSON array of strings."""

    child = Text()


class Money(serializers.DecimalField):
    """A JSON number with at most 4 decimals and 14 digits: few enough that a double keeps every one of them."""

    default_error_messages = {"not_a_number": "Must be a number."}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=14, decimal_places=4, coerce_to_string=False, **kwargs)

    def to_internal_value(self, data: Any) -> Decimal:
        if type(data) not in (int, float):
            self.fail("not_a_number")
        return Decimal(super().to_internal_value(data))

    def to_representation(self, value: Decimal) -> float:  # type: ignore[override]  # a number, not a Decimal
        return money_number(value)


def money_number(amount: Decimal) -> float:
    """`amount` as JSON writes it. Exact to the digit: a double holds any 15 digits, and money has 14."""
    return float(amount)
