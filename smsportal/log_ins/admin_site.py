"""The admin, for staff who have given their second factor."""

from typing import Any

from django.contrib.admin import AdminSite
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from smsportal.log_ins import second_factor


class PortalAdminSite(AdminSite):
    def has_permission(self, request: HttpRequest) -> bool:
        return super().has_permission(request) and second_factor.missing(request) is None

    def get_urls(self) -> list[Any]:
        """Without the links to pages outside the admin, of which there are none: an id that is none breaks them."""
        return [url for url in super().get_urls() if getattr(url, "name", None) != "view_on_site"]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Whoever has given a password is asked for the code, or to set one up, and not for the password again."""
        page = second_factor.missing(request) if super().has_permission(request) else None
        if page is None:
            return super().login(request, extra_context)
        target = request.GET.get(REDIRECT_FIELD_NAME, "") or reverse("admin:index")
        return redirect_to_login(target, reverse(page))
