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

    webhookId = serializers.UUIDField(source="id", help_text="Our id of it.")
    url = serializers.CharField(help_text="What is called.")
    events = serializers.ListField(
        child=serializers.ChoiceField(WebhookEndpoint.Event.choices), help_text="What it is told of."
    )
    createdAt = serializers.DateTimeField(source="created_at", help_text="When it was added.")
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
    """All of a user's endpoints."""

    results = WebhookSerializer(many=True, help_text="The oldest first.")


class CreateWebhookSerializer(StrictSerializer):
    """Where to tell of which events."""

    url = Text(
        max_length=addresses.MAX_LENGTH, help_text="https, of a public host.", described={"format": "webhook-url"}
    )
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

    deliveryId = serializers.UUIDField(source="id", help_text="Our id of it; the header `webhook-id`.")
    event = serializers.CharField(help_text="What it tells of; `test` for a test.")
    body = serializers.CharField(help_text="What is sent, to the byte.")
    createdAt = serializers.DateTimeField(source="created_at", help_text="When it happened.")
    deliveredAt = serializers.DateTimeField(
        source="delivered_at", allow_null=True, help_text="When your address answered 2xx."
    )
    attempts = serializers.IntegerField(help_text="How often it was told.")
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
    """One page of the deliveries, newest first."""

    next = serializers.URLField(allow_null=True, help_text="The page of older deliveries.")
    previous = serializers.URLField(allow_null=True, help_text="The page of newer deliveries.")
    results = DeliverySerializer(many=True, help_text="The deliveries of this page.")
