"""Where billing is found: its API."""

from django.urls import path

from billing import views

urlpatterns = [
    path("api/billing/balance", views.BalanceView.as_view(), name="balance"),
]
