"""Alerts in JSON."""

from typing import Any

from django.conf import settings
from rest_framework import serializers

from smsportal.api.serializers import Money, StrictSerializer, Text, WholeNumber
from smsportal.models import Notice


class AlertSettingsSerializer(StrictSerializer):
    """How a user is told. In a PATCH every field is optional."""

    lowBalanceThreshold = Money(min_value=0, help_text="At or below it the balance is low.")
    maxRetries = WholeNumber(
        min_value=0,
        help_text="Resends of a message, from now on; up to the operator's cap.",
        described={"maximum": settings.SMS_MAX_RETRIES},
    )
    failureAlerts = serializers.BooleanField(help_text="Be told of failed messages.")
    emailAlerts = serializers.BooleanField(help_text="Get alerts by e-mail, too.")
    alertEmail = Text(
        max_length=254,
        allow_blank=True,
        help_text="Where to: an e-mail address; empty: your own.",
        described={"format": "email", "minLength": 3},
    )

    def validate_maxRetries(self, value: int) -> int:
        if value > settings.SMS_MAX_RETRIES:
            raise serializers.ValidationError(f"At most {settings.SMS_MAX_RETRIES}.", code="max_value")
        return value

    def validate_alertEmail(self, value: str) -> str:
        return str(serializers.EmailField(allow_blank=True, trim_whitespace=False).run_validation(value))

    def to_internal_value(self, data: Any) -> Any:
        wrong = [name for name in ("failureAlerts", "emailAlerts") if not isinstance(data.get(name, True), bool)]
        if wrong:
            raise serializers.ValidationError(dict.fromkeys(wrong, "Must be true or false."))
        return super().to_internal_value(data)


class AlertSerializer(serializers.ModelSerializer):
    """Something the user should know."""

    alertId = serializers.CharField(source="pk", help_text="Our id of it.")
    kind = serializers.CharField(help_text="`balance.low`, `sms.failed` or `webhook.disabled`; there may be more.")
    level = serializers.ChoiceField(choices=Notice.Level.choices, help_text="How bad it is.")
    text = serializers.CharField(help_text="Sentences for a person.")
    count = serializers.IntegerField(help_text="How many messages it is about.")
    createdAt = serializers.DateTimeField(source="created_at", help_text="When it began.")
    readAt = serializers.DateTimeField(
        source="read_at", allow_null=True, help_text="When it was marked as read; null: unread."
    )
    endedAt = serializers.DateTimeField(source="ended_at", allow_null=True, help_text="Its cause is over.")

    class Meta:
        model = Notice
        fields = ["alertId", "kind", "level", "text", "count", "createdAt", "readAt", "endedAt"]


class AlertsSerializer(serializers.Serializer):
    """What the user should know."""

    results = AlertSerializer(many=True, help_text="Unread first, newest first.")
