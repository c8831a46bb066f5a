"""The outbox entry as the API writes it, and what it reads. The API's own names live only here."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from billing.serializers import PostingSerializer, PriceRuleSerializer
from outbox import validation
from outbox.models import Attempt, Outbox
from outbox.sending import Quote
from smsportal.api.serializers import Money, StrictSerializer, Text, Texts, WholeNumber, money_number
from smsportal.instants import parse_instant

# An id or a name of the caller's.
ONE_LINE = {"minLength": 1, "maxLength": validation.MAX_NAME_LENGTH, "format": "line"}


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

    recipientPhoneNumber = Text(
        source="recipient",
        help_text="The number: E.164, or local in the operator's default region.",
        described={"format": "phone-number"},
    )
    message = Text(
        source="text",
        help_text="The text, sent exactly as it is. It must have something to read in it, and no control characters.",
        described={"format": "sms-text"},
    )
    senderId = Text(
        source="sender_id",
        required=False,
        help_text="A name or number approved for you; else your default.",
        described={"format": "sender-id", "maxLength": 15},
    )
    userId = Identifier(
        source="user_id", required=False, help_text="Send for this user; for keys that may act for others."
    )
    messageId = Text(
        source="message_id",
        required=False,
        help_text="Your own id for it, unique among your messages; else we make one.",
        described=ONE_LINE,
    )
    messageName = Text(
        source="message_name", required=False, help_text="Your own name for it, for people.", described=ONE_LINE
    )
    scheduleTimestamp = Instant(
        source="scheduled_at", required=False, help_text="When to send it: with offset, at most a year ahead."
    )
    priority = serializers.ChoiceField(
        choices=["normal", "high"], default="normal", help_text="`high` goes before all that is `normal`."
    )
    tags = Texts(
        required=False,
        help_text="At most 20, each of 1 to 64 characters. `OTP` hides the text in lists and from staff.",
        described={
            "maxItems": validation.MAX_TAGS,
            "uniqueItems": True,
            "items": {"type": "string", "minLength": 1, "maxLength": validation.MAX_TAG_LENGTH, "format": "line"},
        },
    )
    customData = serializers.DictField(
        source="custom_data", required=False, help_text="Your own data: at most 4 KiB of JSON, 4 levels deep."
    )
    maxTotalCost = Money(source="max_total_cost", required=False, min_value=0, help_text="Refuse to cost more.")
    validityMinutes = WholeNumber(
        source="validity_minutes",
        required=False,
        help_text="How long it may wait for a provider; else as the operator has set it.",
        described={"minimum": 1, "maximum": validation.MAX_VALIDITY_MINUTES},
    )

    def validate_priority(self, value: str) -> Outbox.Priority:
        return Outbox.Priority[value.upper()]


class QuoteSerializer(serializers.Serializer):
    """What a message would cost at this moment."""

    encoding = serializers.ChoiceField(
        source="segmentation.encoding", choices=["GSM-7", "UCS-2"], help_text="UCS-2 when GSM-7 lacks a character."
    )
    smsUnitsUsed = serializers.IntegerField(source="segmentation.segments", help_text="Segments.")
    costPerUnit = Money(source="price.price_per_segment", help_text="The price of one segment.")
    totalCost = Money(source="total_cost", help_text="Exactly smsUnitsUsed times costPerUnit.")
    currency = serializers.CharField(source="account.currency", help_text="Of the prices: three letters.")
    balanceAfter = serializers.SerializerMethodField(
        help_text="What could be spent after it, credit included; less than 0: there is not enough for it."
    )
    charactersForcingUcs2 = serializers.ListField(
        source="segmentation.characters_forcing_ucs2",
        child=serializers.CharField(),
        help_text="Without these characters the text would be GSM-7, which is cheaper.",
    )
    priceRule = PriceRuleSerializer(source="price", help_text="Which line of the price list decided.")

    def get_balanceAfter(self, quoted: Quote) -> float:
        return money_number(quoted.account.available() - quoted.total_cost)


class ResendSerializer(StrictSerializer):
    """Which message to send again."""

    outboxId = Text(
        source="outbox_id", help_text="Which message to send again: its `outboxId`.", described={"format": "uuid"}
    )


class TimestampsSerializer(serializers.Serializer):
    """When what happened to a message."""

    createdAt = serializers.DateTimeField(source="created_at", help_text="When it was logged.")
    sentAt = serializers.DateTimeField(
        source="sent_at", allow_null=True, help_text="When a provider first accepted it."
    )
    lastAttemptAt = serializers.DateTimeField(
        source="last_attempt_at", allow_null=True, help_text="When it was last handed to a provider."
    )


class OutboxSerializer(serializers.ModelSerializer):
    """One message and where it stands."""

    outboxId = serializers.UUIDField(source="id", help_text="Our id of it (UUIDv7).")
    userId = serializers.UUIDField(source="user.live_id", help_text="The user who sent it.")
    recipientPhoneNumber = serializers.CharField(source="recipient", help_text="The number in E.164.")
    message = serializers.CharField(source="text", help_text="The text, exactly as it came.")
    senderId = serializers.CharField(
        source="sender_id", allow_null=True, help_text="Whom it is from; null: whatever the provider shows."
    )
    messageId = serializers.CharField(source="message_id", help_text="Your own id for it, or one that we made.")
    messageName = serializers.CharField(source="message_name", allow_null=True, help_text="Your own name for it.")
    smsUnitsUsed = serializers.IntegerField(source="segments", help_text="Segments.")
    costPerUnit = Money(source="price_per_segment", help_text="The price of one segment, frozen at acceptance.")
    totalCost = Money(source="total_cost", help_text="Exactly smsUnitsUsed times costPerUnit.")
    currency = serializers.CharField(help_text="Of the prices: three letters.")
    chargeStatus = serializers.ChoiceField(
        source="charge_status",
        choices=Outbox.ChargeStatus.choices,
        help_text="Its money: `none` was there for it; `held` until the outcome is known; `charged`; or `released`.",
    )
    encoding = serializers.ChoiceField(choices=["GSM-7", "UCS-2"], help_text="UCS-2 when GSM-7 lacks a character.")
    status = serializers.ChoiceField(
        choices=Outbox.Status.choices,
        help_text="`pending` until the outcome is known; `sent`: a provider accepted it; `failed`: see `errorCode`.",
    )
    outcome = serializers.ChoiceField(
        choices=Outbox.Outcome.choices, allow_null=True, help_text="`unknown`: the provider may have taken it."
    )
    deliveryStatus = serializers.ChoiceField(
        source="delivery_status",
        choices=Outbox.DeliveryStatus.choices,
        allow_null=True,
        help_text="What the handset's delivery receipt said.",
    )
    timestamps = TimestampsSerializer(source="*", help_text="When what happened to it.")
    scheduledAt = serializers.DateTimeField(
        source="scheduled_at", allow_null=True, help_text="When it is to be sent; null: at once."
    )
    expiresAt = serializers.DateTimeField(
        source="expires_at", help_text="When it fails if no provider could take it by then."
    )
    deliveredAt = serializers.DateTimeField(
        source="delivered_at", allow_null=True, help_text="When the handset had it, as the provider says."
    )
    retryCount = serializers.IntegerField(source="retry_count", help_text="Resends so far.")
    maxRetries = serializers.IntegerField(source="max_retries", help_text="Resends allowed.")
    errorCode = serializers.CharField(source="reason.code", allow_null=True, help_text="A stable word.")
    errorDetails = serializers.CharField(source="reason.details", allow_null=True, help_text="A sentence for a person.")
    priority = serializers.SerializerMethodField(help_text="`high` goes before all that is `normal`.")
    tags = serializers.ListField(child=serializers.CharField(), help_text="Your own, as they came.")
    customData = serializers.DictField(source="custom_data", allow_null=True, help_text="Your own data, as they came.")

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
    results = OutboxSerializer(many=True, help_text="The messages of this page.")


class AttemptSerializer(serializers.ModelSerializer):
    """One handing of the message to a provider."""

    number = serializers.IntegerField(help_text="1 for the first.")
    provider = serializers.CharField(help_text="Which provider, by the operator's name for it.")
    startedAt = serializers.DateTimeField(source="started_at", help_text="When it was handed over.")
    finishedAt = serializers.DateTimeField(
        source="finished_at", allow_null=True, help_text="When the outcome was known; null: it is not yet."
    )
    outcome = serializers.ChoiceField(
        choices=Attempt.Outcome.choices, allow_null=True, help_text="null: in the provider's hands."
    )
    providerMessageId = serializers.CharField(
        source="provider_message_id", allow_null=True, help_text="What the provider calls it."
    )
    errorCode = serializers.CharField(
        source="error_code", allow_null=True, help_text="Why it was not accepted: a stable word."
    )

    class Meta:
        model = Attempt
        fields = ["number", "provider", "startedAt", "finishedAt", "outcome", "providerMessageId", "errorCode"]


class OutboxDetailSerializer(OutboxSerializer):
    """One message with its attempts and every line of the ledger it caused."""

    attempts = AttemptSerializer(many=True, help_text="Every handing of it to a provider, the first first.")
    ledger = PostingSerializer(source="postings", many=True, help_text="Every line of the ledger it caused.")

    class Meta(OutboxSerializer.Meta):
        fields = [*OutboxSerializer.Meta.fields, "attempts", "ledger"]
