"""The API of webhooks: where a user's apps are told of events, and what became of each telling."""

import uuid
from typing import Any

from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from smsportal import rates
from smsportal.api import examples
from smsportal.api.authentication import caller
from smsportal.api.pagination import KeysetPagination
from smsportal.api.schema import Answer, problems
from smsportal.exceptions import DomainError
from smsportal.models import ApiKey, WebhookDelivery, WebhookEndpoint
from smsportal.webhooks import deliveries, events
from smsportal.webhooks.serializers import (
    EVENTS,
    CreateWebhookSerializer,
    DeliveryPageSerializer,
    DeliverySerializer,
    NewWebhookSerializer,
    WebhookSerializer,
    WebhooksSerializer,
)

MAX_ENDPOINTS = 10
TRIES_PER_MINUTE = 30


def about_webhook(pointer: str) -> dict[str, dict[str, str]]:
    """What can be done with the endpoint whose id stands there in an answer."""
    operations = ("getWebhook", "testWebhook", "listWebhookDeliveries", "enableWebhook", "deleteWebhook")
    return {operation: {"webhookId": pointer} for operation in operations}


ABOUT_WEBHOOK = about_webhook("/webhookId")
SAME_WEBHOOK = {"webhookId": "$request.path.webhookId"}
TEST_SEEN = {"listWebhookDeliveries": SAME_WEBHOOK}
REPLAY_FIRST = {"replayWebhookDelivery": SAME_WEBHOOK | {"deliveryId": "/results/0/deliveryId"}}


class TooManyWebhooks(DomainError):
    code = "too_many_webhooks"


def take_a_try(request: Request) -> None:
    """Tests and replays are for people, not for loops. Raises RateLimited."""
    rule = f"At most {TRIES_PER_MINUTE} tests and replays of webhooks a minute."
    rates.take([rates.Limit("webhookTests", str(caller(request).pk), TRIES_PER_MINUTE, 60, rule)])


def endpoint_or_404(request: Request, webhook_id: str) -> WebhookEndpoint:
    """The caller's endpoint; another's is as unknown as one that does not exist."""
    try:
        return caller(request).webhook_endpoints.get(pk=uuid.UUID(webhook_id))
    except (ValueError, WebhookEndpoint.DoesNotExist):
        raise Http404 from None


class WebhooksView(APIView):
    """All of a user's endpoints."""

    scope = ApiKey.Scope.READ
    scope_to_change = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="listWebhooks",
        summary="List webhooks",
        responses={
            200: Answer(WebhooksSerializer, "Your webhooks.", examples.WEBHOOKS, about_webhook("/results/0/webhookId")),
            **problems(),
        },
    )
    def get(self, request: Request) -> Response:
        """Your endpoints, the oldest first."""
        found = caller(request).webhook_endpoints.order_by("pk")
        return Response({"results": WebhookSerializer(found, many=True).data})

    @extend_schema(
        operation_id="createWebhook",
        summary="Add a webhook",
        request=CreateWebhookSerializer,
        examples=[OpenApiExample("Two events", examples.CREATE_WEBHOOK, request_only=True)],
        responses={
            201: Answer(
                NewWebhookSerializer, "It is there, and this is its secret.", examples.NEW_WEBHOOK, ABOUT_WEBHOOK
            ),
            **problems("invalid", "too_many_webhooks", "unsupported_media_type", "body_too_large"),
        },
    )
    def post(self, request: Request) -> Response:
        """Have an address told of events, signed as Standard Webhooks has it (headers `webhook-id`,
        `webhook-timestamp`, `webhook-signature`). Answer 2xx within 10 seconds; anything else is tried again for
        three days, and 410 disables the webhook.
        """
        serializer = CreateWebhookSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        if caller(request).webhook_endpoints.count() >= MAX_ENDPOINTS:
            raise TooManyWebhooks(f"You have {MAX_ENDPOINTS} webhooks; remove one first.")
        endpoint = create(caller(request), **serializer.validated_data)
        return Response(NewWebhookSerializer(endpoint).data, status=status.HTTP_201_CREATED)


def create(user: Any, url: str, events: list[str] | None = None) -> WebhookEndpoint:
    """A new endpoint of the user's, with a secret of its own."""
    chosen = [event for event in EVENTS if events is None or event in events]
    endpoint = WebhookEndpoint.objects.create(user=user, url=url, events=chosen, secret=WebhookEndpoint.new_secret())
    endpoint.refresh_from_db()
    return endpoint


class WebhookView(APIView):
    """One endpoint."""

    scope = ApiKey.Scope.READ
    scope_to_change = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="getWebhook",
        summary="Read a webhook",
        responses={200: Answer(WebhookSerializer, "The webhook.", examples.WEBHOOK), **problems("not_found")},
    )
    def get(self, request: Request, webhookId: str) -> Response:
        """One of your endpoints."""
        return Response(WebhookSerializer(endpoint_or_404(request, webhookId)).data)

    @extend_schema(
        operation_id="deleteWebhook",
        summary="Remove a webhook",
        responses={204: OpenApiResponse(description="It is removed."), **problems("not_found")},
    )
    def delete(self, request: Request, webhookId: str) -> Response:
        """Tell this address nothing more; what waits for it is forgotten, and so is the log of its deliveries."""
        deliveries.remove(endpoint_or_404(request, webhookId).pk)
        return Response(status=status.HTTP_204_NO_CONTENT)


class EnableWebhookView(APIView):
    """Call it again."""

    scope = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="enableWebhook",
        summary="Enable a webhook again",
        request=None,
        responses={200: Answer(WebhookSerializer, "It is called again.", examples.WEBHOOK), **problems("not_found")},
    )
    def post(self, request: Request, webhookId: str) -> Response:
        """After it was disabled: what waits for it is told too."""
        endpoint = endpoint_or_404(request, webhookId)
        deliveries.enable(endpoint)
        endpoint.refresh_from_db()
        return Response(WebhookSerializer(endpoint).data)


class TestWebhookView(APIView):
    """Try it."""

    scope = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="testWebhook",
        summary="Send a test event",
        request=None,
        responses={
            201: Answer(DeliverySerializer, "It is queued.", examples.DELIVERY, TEST_SEEN),
            **problems("not_found"),
        },
    )
    def post(self, request: Request, webhookId: str) -> Response:
        """Queue an event of type `test` for it."""
        endpoint = endpoint_or_404(request, webhookId)
        take_a_try(request)
        delivery = events.record_test(endpoint)
        delivery.refresh_from_db()
        return Response(DeliverySerializer(delivery).data, status=status.HTTP_201_CREATED)


class DeliveriesView(GenericAPIView):
    """What became of telling."""

    scope = ApiKey.Scope.READ
    serializer_class = DeliverySerializer
    queryset = WebhookDelivery.objects.none()
    filter_backends = ()

    def get_queryset(self) -> QuerySet[WebhookDelivery]:
        if getattr(self, "swagger_fake_view", False):
            return super().get_queryset()
        return endpoint_or_404(self.request, self.kwargs["webhookId"]).deliveries.all()

    @extend_schema(
        operation_id="listWebhookDeliveries",
        summary="List the deliveries of a webhook",
        parameters=KeysetPagination.parameters(),
        filters=False,
        responses={
            200: Answer(DeliveryPageSerializer, "A page of them.", examples.DELIVERIES, REPLAY_FIRST),
            **problems("invalid", "not_found"),
        },
    )
    def get(self, request: Request, webhookId: str) -> Response:
        """The events for this webhook of the last 30 days, newest first."""
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class ReplayView(APIView):
    """Tell it once more."""

    scope = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="replayWebhookDelivery",
        summary="Send an event again",
        request=None,
        responses={200: Answer(DeliverySerializer, "It is queued.", examples.DELIVERY), **problems("not_found")},
    )
    def post(self, request: Request, webhookId: str, deliveryId: str) -> Response:
        """Queue the same event, with the same id, once more."""
        try:
            delivery = endpoint_or_404(request, webhookId).deliveries.get(pk=uuid.UUID(deliveryId))
        except (ValueError, WebhookDelivery.DoesNotExist):
            raise Http404 from None
        take_a_try(request)
        deliveries.replay(delivery)
        delivery.refresh_from_db()
        return Response(DeliverySerializer(delivery).data)
