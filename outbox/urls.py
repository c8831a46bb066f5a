"""Where the outbox is found: its API, its providers' callbacks, its pages, its figures."""

from django.urls import include, path
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView

from outbox import callbacks, monitoring, pages, sender_id_pages, views
from outbox.alerts import views as alerts

api = [
    path("send", views.SendView.as_view(), name="send"),
    path("outbox", views.OutboxListView.as_view(), name="list"),
    path("quote", views.QuoteView.as_view(), name="quote"),
    path("outbox/export", views.OutboxExportView.as_view(), name="export"),
    path("outbox/resend", views.ResendView.as_view(), name="resend"),
    path("outbox/<str:outboxId>/cancel", views.CancelView.as_view(), name="cancel"),
    path("outbox/<str:outboxId>", views.OutboxDetailView.as_view(), name="detail"),
]

html = [
    path("", require_safe(RedirectView.as_view(pattern_name="outbox:list")), name="home"),
    path("outbox/", pages.log, name="list"),
    path("outbox/new/", pages.compose, name="new"),
    path("outbox/<uuid:outbox_id>/", pages.detail, name="detail"),
    path("outbox/<uuid:outbox_id>/resend/", pages.resend, name="resend"),
    path("settings/sender-ids/", sender_id_pages.sender_ids_page, name="sender_ids"),
    path("settings/sender-ids/default/", sender_id_pages.choose_default, name="default_sender_id"),
]

urlpatterns = [
    path("", include((html, "outbox"))),
    path("api/sms/", include((api, "outbox-api"))),
    path("api/alerts/settings", alerts.AlertSettingsView.as_view(), name="alert-settings"),
    path("api/alerts", alerts.AlertsView.as_view(), name="alerts"),
    path("api/alerts/<str:alertId>/read", alerts.ReadAlertView.as_view(), name="read-alert"),
    path("readyz", monitoring.readyz),
    path("metrics", monitoring.metrics),
    path("api/providers/<str:provider>/receipts/<str:token>", callbacks.receive, name="receipts"),
]
