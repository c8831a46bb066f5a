"""Where webhooks are managed: their API."""

from django.urls import path

from smsportal.webhooks import views

urlpatterns = [
    path("api/webhooks", views.WebhooksView.as_view(), name="webhooks"),
    path("api/webhooks/<str:webhookId>", views.WebhookView.as_view(), name="webhook"),
    path("api/webhooks/<str:webhookId>/enable", views.EnableWebhookView.as_view(), name="enable-webhook"),
    path("api/webhooks/<str:webhookId>/test", views.TestWebhookView.as_view(), name="test-webhook"),
    path("api/webhooks/<str:webhookId>/deliveries", views.DeliveriesView.as_view(), name="webhook-deliveries"),
    path("api/webhooks/<str:webhookId>/deliveries/<str:deliveryId>/replay", views.ReplayView.as_view(), name="replay"),
]
