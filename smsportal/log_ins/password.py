"""The page on which people change their password."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.views import PasswordChangeView
from django.http import HttpResponse
from django.urls import reverse_lazy


class PasswordView(PasswordChangeView):
    template_name = "account/password.html"
    success_url = reverse_lazy("outbox:list")

    def form_valid(self, form: Any) -> HttpResponse:
        messages.success(self.request, "Your password is changed.")
        return super().form_valid(form)
