"""Where billing is found: its API."""

from django.urls import path

from billing import views

urlpatterns = [
    path("api/billing/balance", views.BalanceView.as_view(), name="balance"),
    path("api/billing/statement", views.StatementView.as_view(), name="statement"),
    path("api/billing/prices", views.PricesView.as_view(), name="prices"),
]
