"""Where the outbox is found: its API, its providers' callbacks, its pages."""

from django.urls import include, path

from outbox import callbacks, views

api = [
    path("send", views.SendView.as_view(), name="send"),
    path("outbox", views.OutboxListView.as_view(), name="list"),
    path("outbox/resend", views.ResendView.as_view(), name="resend"),
    path("outbox/<str:outbox_id>/cancel", views.CancelView.as_view(), name="cancel"),
    path("outbox/<str:outbox_id>", views.OutboxDetailView.as_view(), name="detail"),
]

urlpatterns = [
    path("api/sms/", include((api, "outbox-api"))),
    path("api/providers/<str:provider>/receipts/<str:token>", callbacks.receive, name="receipts"),
]
