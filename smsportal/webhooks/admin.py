"""The staff's view of webhooks: which there are, and what became of telling them. Their secrets are shown to nobody."""

from uuid import UUID

from django.contrib import admin
from django.db.models import Q

from smsportal.log_admin import LogAdmin
from smsportal.models import WebhookDelivery, WebhookEndpoint


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(LogAdmin):
    """Users' addresses. They make and remove them themselves."""

    list_display = ("created_at", "user", "url", "shown_events", "disabled_at", "disabled_reason")
    fields = ("user", "url", "shown_events", "created_at", "disabled_at", "disabled_reason")
    list_select_related = ("user",)
    search_help_text = "Exactly: a user name."

    @admin.display(description="events")
    def shown_events(self, endpoint: WebhookEndpoint) -> str:
        return ", ".join(endpoint.events)

    def find(self, term: str) -> Q:
        return Q(user__username=term)


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(LogAdmin):
    """Each event for each endpoint, for 30 days."""

    list_display = (
        "created_at",
        "event",
        "endpoint",
        "attempts",
        "last_status",
        "last_error",
        "delivered_at",
        "due_at",
    )
    fields = (*list_display, "last_attempt_at", "body")
    list_select_related = ("endpoint",)
    links = ("endpoint__id__exact",)
    search_help_text = "Exactly: the id of an endpoint."

    def find(self, term: str) -> Q | None:
        try:
            return Q(endpoint_id=UUID(term))
        except ValueError:
            return None
