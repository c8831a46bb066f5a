"""Webhooks in JSON."""

from django.core.exceptions import ValidationError as InvalidUrl
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from smsportal.api.serializers import StrictSerializer, Text
from smsportal.models import WebhookDelivery, WebhookEndpoint
from smsportal.webhooks import addresses

EVENTS = WebhookEndpoint.Event.values


class WebhookSerializer(serializers.ModelSerializer):
    """One endpoint."""

    webhookId = serializers.UUIDField(source="id")
    createdAt = serializers.DateTimeField(source="created_at")
    events = serializers.ListField(child=serializers.ChoiceField(WebhookEndpoint.Event.choices))
    disabledAt = serializers.DateTimeField(source="disabled_at", allow_null=True, help_text="It is called no more.")
    disabledReason = serializers.CharField(source="disabled_reason", allow_null=True, help_text="A sentence.")

    class Meta:
        model = WebhookEndpoint
        fields = ["webhookId", "url", "events", "createdAt", "disabledAt", "disabledReason"]


class NewWebhookSerializer(WebhookSerializer):
    """One endpoint, with the secret that is shown this once."""

    secret = serializers.CharField(help_text="Verifies signatures (Standard Webhooks); shown this once.")

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "secret"]


class WebhooksSerializer(serializers.Serializer):
    results = WebhookSerializer(many=True)


class CreateWebhookSerializer(StrictSerializer):
    url = Text(max_length=addresses.MAX_LENGTH, help_text="https, of a public host.")
    events = serializers.ListField(
        child=serializers.ChoiceField(WebhookEndpoint.Event.choices),
        min_length=1,
        max_length=len(EVENTS),
        required=False,
        help_text="All, when left out.",
    )

    def validate_url(self, url: str) -> str:
        try:
            return addresses.clean_url(url)
        except InvalidUrl as error:
            raise ValidationError(error.messages, code=error.code) from error


class DeliverySerializer(serializers.ModelSerializer):
    """One event for one endpoint, and what became of telling it."""

    deliveryId = serializers.UUIDField(source="id")
    body = serializers.CharField(help_text="What is sent, to the byte.")
    createdAt = serializers.DateTimeField(source="created_at")
    deliveredAt = serializers.DateTimeField(source="delivered_at", allow_null=True)
    nextAttemptAt = serializers.DateTimeField(source="due_at", allow_null=True, help_text="Null: no more.")
    lastStatus = serializers.IntegerField(source="last_status", allow_null=True, help_text="The HTTP status it got.")
    lastError = serializers.CharField(source="last_error", allow_null=True, help_text="A sentence, when it got none.")

    class Meta:
        model = WebhookDelivery
        fields = [
            *("deliveryId", "event", "body", "createdAt", "deliveredAt", "nextAttemptAt", "attempts"),
            *("lastStatus", "lastError"),
        ]


class DeliveryPageSerializer(serializers.Serializer):
    next = serializers.URLField(allow_null=True, help_text="The page of older deliveries.")
    previous = serializers.URLField(allow_null=True, help_text="The page of newer deliveries.")
    results = DeliverySerializer(many=True)
