"""What the outbox can be asked for, in the API and on the pages; any other parameter is refused."""

import django_filters
from django.core.exceptions import ValidationError
from django.db.models import QuerySet

from outbox import msisdn
from outbox.models import Outbox
from outbox.validation import clean_recipient
from smsportal.api.filters import InstantFilter, StrictFilterSet


class OutboxFilter(StrictFilterSet):
    """Filters of the log."""

    status = django_filters.ChoiceFilter(choices=Outbox.Status.choices, label="`pending`, `sent` or `failed`.")
    outcome = django_filters.ChoiceFilter(
        choices=Outbox.Outcome.choices, label="`unknown`: the provider may have taken it."
    )
    deliveryStatus = django_filters.ChoiceFilter(
        "delivery_status", choices=Outbox.DeliveryStatus.choices, label="What the handset's receipt said."
    )
    recipientPhoneNumber = django_filters.CharFilter("recipient", method="filter_recipient", label="As typed; exact.")
    senderId = django_filters.CharFilter("sender_id", label="Exact.")
    messageId = django_filters.CharFilter("message_id", label="Your own id; exact.")
    tag = django_filters.CharFilter(method="filter_tag", label="Has this tag.")
    createdAfter = InstantFilter("created_at", lookup_expr="gte", label="ISO 8601 with offset; that moment or later.")
    createdBefore = InstantFilter("created_at", lookup_expr="lt", label="ISO 8601 with offset; earlier than that.")
    linkedTransactionId = django_filters.CharFilter(method="filter_linked_transaction", label="Of `customData`; exact.")

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
