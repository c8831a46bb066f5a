"""What lists can be asked for in their address; what is no filter is refused, so that a typo never finds everything."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import django_filters
from django import forms
from django.core.exceptions import ValidationError as InvalidValue
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError

from smsportal.instants import parse_instant

# Text that is not blank, without NUL, which no text in the database has. Python strips more than ECMA's \s names.
STORABLE = {"type": "string", "pattern": r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$"}


class InstantField(forms.Field):
    """ISO 8601 with its offset, as in the API's bodies."""

    def to_python(self, value: Any) -> datetime | None:
        if not value:
            return None
        try:
            # A "+" in an address arrives as a space.
            return parse_instant(str(value).strip().replace(" ", "+"))
        except ValueError as error:
            raise InvalidValue(str(error), "no_offset") from error


class InstantFilter(django_filters.Filter):  # type: ignore[misc]  # the library has no types
    field_class = InstantField


class StrictFilterSet(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    """Filters of a list; each is exact, and all must hold."""

    def refuse_typos(self, besides: Collection[str]) -> None:
        """Raise ValidationError for parameters that are neither a filter nor in `besides`, and for empty filters."""
        given: Any = self.data
        if unknown := sorted(set(given) - set(self.filters) - set(besides)):
            known = ", ".join([*self.filters, *besides])
            raise ValidationError(
                dict.fromkeys(unknown, f"There is no filter of this name; there are {known}."), code="unknown_field"
            )
        if empty := [name for name in self.filters if name in given and not given[name].strip()]:
            raise ValidationError(dict.fromkeys(empty, "Give it a value, or leave it out."), code="blank")

    @classmethod
    def parameters(cls) -> list[OpenApiParameter]:
        """The filters as the OpenAPI document describes them."""
        return [
            OpenApiParameter(
                name,
                datetime if isinstance(found, InstantFilter) else STORABLE,
                description=found.label,
                enum=[value for value, _ in found.extra.get("choices", ())],
            )
            for name, found in cls.base_filters.items()
        ]
