"""The outbox entry as the API writes it, and what it reads. The API's own names live only here."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.serializers import PostingSerializer, PriceRuleSerializer
from outbox.models import Attempt, Outbox
from outbox.sending import Quote
from smsportal.api.serializers import Money, StrictSerializer, Text, WholeNumber, money_number
from smsportal.instants import parse_instant


class Instant(serializers.DateTimeField):
    """ISO 8601 with its offset."""

    def to_internal_value(self, value: Any) -> datetime:
        try:
            return parse_instant(value if isinstance(value, str) else "")
        except ValueError as error:
            raise serializers.ValidationError(str(error), "no_offset") from error


class Identifier(serializers.UUIDField):
    """A UUID as a JSON string."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            self.fail("invalid", value=data)
        return super().to_internal_value(data)


class SendSerializer(StrictSerializer):
    """A message to send."""

    # Types only: what a message may look like is outbox/validation.py.

    recipientPhoneNumber = Text(source="recipient", help_text="The number: E.164, or local in the default region.")
    message = Text(source="text", help_text="The text, sent exactly as it is.")
    senderId = Text(source="sender_id", required=False, help_text="A name or number approved for you.")
    userId = Identifier(
        source="user_id", required=False, help_text="Send for this user; for keys that may act for others."
    )
    messageId = Text(source="message_id", required=False, help_text="Your own id for it, unique among your messages.")
    messageName = Text(source="message_name", required=False)
    scheduleTimestamp = Instant(source="scheduled_at", required=False, help_text="With offset, at most a year ahead.")
    priority = serializers.ChoiceField(choices=["normal", "high"], default="normal")
    tags = serializers.ListField(child=Text(), required=False, help_text="At most 20, each of 1 to 64 characters.")
    customData = serializers.DictField(
        source="custom_data", required=False, help_text="Your own data: at most 4 KiB of JSON, 4 levels deep."
    )
    maxTotalCost = Money(source="max_total_cost", required=False, min_value=0, help_text="Refuse to cost more.")
    validityMinutes = WholeNumber(
        source="validity_minutes", required=False, help_text="How long it may wait for a provider; 1 to 10080."
    )

    def validate_priority(self, value: str) -> Outbox.Priority:
        return Outbox.Priority[value.upper()]


class QuoteSerializer(serializers.Serializer):
    """What a message would cost at this moment."""

    encoding = serializers.ChoiceField(source="segmentation.encoding", choices=["GSM-7", "UCS-2"])
    smsUnitsUsed = serializers.IntegerField(source="segmentation.segments", help_text="Segments.")
    costPerUnit = Money(source="price.price_per_segment", help_text="The price of one segment.")
    totalCost = Money(source="total_cost", help_text="Exactly smsUnitsUsed times costPerUnit.")
    currency = serializers.CharField(source="account.currency")
    balanceAfter = serializers.SerializerMethodField(
        help_text="What could be spent after it, credit included; less than 0: there is not enough for it."
    )
    charactersForcingUcs2 = serializers.ListField(
        source="segmentation.characters_forcing_ucs2",
        child=serializers.CharField(),
        help_text="Without these characters the text would be GSM-7, which is cheaper.",
    )
    priceRule = PriceRuleSerializer(source="price")

    def get_balanceAfter(self, quoted: Quote) -> float:
        return money_number(quoted.account.available() - quoted.total_cost)


class ResendSerializer(StrictSerializer):
    """Which message to send again."""

    outboxId = Text(source="outbox_id", help_text="Which message to send again.")


class TimestampsSerializer(serializers.Serializer):
    createdAt = serializers.DateTimeField(source="created_at", help_text="When it was logged.")
    sentAt = serializers.DateTimeField(
        source="sent_at", allow_null=True, help_text="When a provider first accepted it."
    )
    lastAttemptAt = serializers.DateTimeField(
        source="last_attempt_at", allow_null=True, help_text="When it was last handed to a provider."
    )


class OutboxSerializer(serializers.ModelSerializer):
    """One message and where it stands."""

    outboxId = serializers.UUIDField(source="id")
    userId = serializers.UUIDField(source="user.live_id")
    recipientPhoneNumber = serializers.CharField(source="recipient")
    message = serializers.CharField(source="text")
    senderId = serializers.CharField(source="sender_id", allow_null=True)
    messageId = serializers.CharField(source="message_id")
    messageName = serializers.CharField(source="message_name", allow_null=True)
    smsUnitsUsed = serializers.IntegerField(source="segments", help_text="Segments.")
    costPerUnit = Money(source="price_per_segment", help_text="The price of one segment, frozen at acceptance.")
    totalCost = Money(source="total_cost", help_text="Exactly smsUnitsUsed times costPerUnit.")
    chargeStatus = serializers.ChoiceField(source="charge_status", choices=Outbox.ChargeStatus.choices)
    outcome = serializers.ChoiceField(
        choices=Outbox.Outcome.choices, allow_null=True, help_text="`unknown`: the provider may have taken it."
    )
    deliveryStatus = serializers.ChoiceField(
        source="delivery_status", choices=Outbox.DeliveryStatus.choices, allow_null=True
    )
    timestamps = TimestampsSerializer(source="*")
    scheduledAt = serializers.DateTimeField(source="scheduled_at", allow_null=True)
    expiresAt = serializers.DateTimeField(source="expires_at")
    deliveredAt = serializers.DateTimeField(source="delivered_at", allow_null=True)
    retryCount = serializers.IntegerField(source="retry_count", help_text="Resends so far.")
    maxRetries = serializers.IntegerField(source="max_retries", help_text="Resends allowed.")
    errorCode = serializers.CharField(source="reason.code", allow_null=True, help_text="A stable word.")
    errorDetails = serializers.CharField(source="reason.details", allow_null=True, help_text="A sentence for a person.")
    priority = serializers.SerializerMethodField()
    tags = serializers.ListField(child=serializers.CharField())
    customData = serializers.DictField(source="custom_data", allow_null=True)

    class Meta:
        model = Outbox
        fields = [
            "outboxId",
            "userId",
            "recipientPhoneNumber",
            "message",
            "senderId",
            "messageId",
            "messageName",
            "smsUnitsUsed",
            "costPerUnit",
            "totalCost",
            "currency",
            "chargeStatus",
            "encoding",
            "status",
            "outcome",
            "deliveryStatus",
            "timestamps",
            "scheduledAt",
            "expiresAt",
            "deliveredAt",
            "retryCount",
            "maxRetries",
            "errorCode",
            "errorDetails",
            "priority",
            "tags",
            "customData",
        ]

    @extend_schema_field(serializers.ChoiceField(choices=["normal", "high"]))
    def get_priority(self, entry: Outbox) -> str:
        return Outbox.Priority(entry.priority).name.lower()


class OutboxPageSerializer(serializers.Serializer):
    """One page of the log, newest first."""

    next = serializers.URLField(allow_null=True, help_text="The page of older messages.")
    previous = serializers.URLField(allow_null=True, help_text="The page of newer messages.")
    results = OutboxSerializer(many=True)


class AttemptSerializer(serializers.ModelSerializer):
    """One handing of the message to a provider."""

    startedAt = serializers.DateTimeField(source="started_at")
    finishedAt = serializers.DateTimeField(source="finished_at", allow_null=True)
    outcome = serializers.ChoiceField(
        choices=Attempt.Outcome.choices, allow_null=True, help_text="null: in the provider's hands."
    )
    providerMessageId = serializers.CharField(source="provider_message_id", allow_null=True)
    errorCode = serializers.CharField(source="error_code", allow_null=True)

    class Meta:
        model = Attempt
        fields = ["number", "provider", "startedAt", "finishedAt", "outcome", "providerMessageId", "errorCode"]


class OutboxDetailSerializer(OutboxSerializer):
    """One message with its attempts and every line of the ledger it caused."""

    attempts = AttemptSerializer(many=True)
    ledger = PostingSerializer(source="postings", many=True)

    class Meta(OutboxSerializer.Meta):
        fields = [*OutboxSerializer.Meta.fields, "attempts", "ledger"]
