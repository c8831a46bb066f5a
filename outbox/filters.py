"""What the outbox can be asked for, in the API and on the pages; any other parameter is refused."""

from datetime import datetime
from typing import Any

import django_filters
from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime

from outbox import msisdn
from outbox.models import Outbox
from outbox.validation import clean_recipient


class InstantField(forms.Field):
    """ISO 8601 with its offset, as in the API's bodies."""

    def to_python(self, value: Any) -> datetime | None:
        if not value:
            return None
        try:
            # A "+" in an address arrives as a space.
            parsed = parse_datetime(str(value).strip().replace(" ", "+"))
        except ValueError:
            parsed = None
        if parsed is None or parsed.tzinfo is None:
            raise ValidationError("Must be an ISO 8601 time with an offset, such as 2027-01-01T09:00:00Z.", "no_offset")
        return parsed


class InstantFilter(django_filters.Filter):  # type: ignore[misc]  # the library has no types
    field_class = InstantField


class OutboxFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library has no types
    """Filters of the log; each is exact, and all must hold."""

    status = django_filters.ChoiceFilter(choices=Outbox.Status.choices)
    outcome = django_filters.ChoiceFilter(choices=Outbox.Outcome.choices)
    deliveryStatus = django_filters.ChoiceFilter("delivery_status", choices=Outbox.DeliveryStatus.choices)
    recipientPhoneNumber = django_filters.CharFilter("recipient", method="filter_recipient")
    senderId = django_filters.CharFilter("sender_id")
    messageId = django_filters.CharFilter("message_id")
    tag = django_filters.CharFilter(method="filter_tag")
    createdAfter = InstantFilter("created_at", lookup_expr="gte")
    createdBefore = InstantFilter("created_at", lookup_expr="lt")
    linkedTransactionId = django_filters.CharFilter(method="filter_linked_transaction")

    class Meta:
        model = Outbox
        fields: list[str] = []

    def filter_recipient(self, queryset: QuerySet[Outbox], name: str, value: str) -> QuerySet[Outbox]:
        # A "+" in an address arrives as a space.
        typed = value.strip()
        try:
            return queryset.filter(recipient=clean_recipient(typed))
        except ValidationError:
            try:
                return queryset.filter(recipient=msisdn.normalize(f"+{typed}", None))
            except msisdn.InvalidNumber:
                return queryset.none()

    def filter_tag(self, queryset: QuerySet[Outbox], name: str, value: str) -> QuerySet[Outbox]:
        return queryset.filter(tags__contains=[value])

    def filter_linked_transaction(self, queryset: QuerySet[Outbox], name: str, value: str) -> QuerySet[Outbox]:
        return queryset.filter(custom_data__contains={"linkedTransactionId": value})

    def unknown_names(self, allowed: set[str]) -> list[str]:
        """Parameters that are neither a filter nor in `allowed`."""
        given: Any = self.data
        return sorted(set(given) - set(self.filters) - allowed)
