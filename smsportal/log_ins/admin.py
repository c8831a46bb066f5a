"""The admin of log-ins: who has been locked out, and whose second factor is lost."""

from datetime import datetime
from typing import Any
from uuid import UUID

from axes.models import AccessAttempt
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django_otp.plugins.otp_static.admin import StaticDevice
from django_otp.plugins.otp_totp.admin import TOTPDevice

from smsportal.log_admin import LogAdmin, note
from smsportal.log_ins import second_factor
from smsportal.log_ins.lockout import ANY_NAME
from smsportal.models import User

# Their own pages show the keys.
admin.site.unregister(StaticDevice)
admin.site.unregister(TOTPDevice)


@admin.register(AccessAttempt)
class FailedLogInAdmin(LogAdmin):
    """Failed log-ins of the last day, by the name that was tried and where from; and the way to let somebody in."""

    actions = ("let_in",)
    list_display = ("name", "ip_address", "failures_since_start", "attempt_time", "locked_until")
    list_display_links = None
    ordering = ("-attempt_time",)
    search_help_text = "Exactly: a user name, or an address."

    @admin.display(description="name", empty_value="all names")
    def name(self, attempt: AccessAttempt) -> str | None:
        return attempt.username or None

    @admin.display(description="locked until (UTC)")
    def locked_until(self, attempt: AccessAttempt) -> datetime | None:
        limit = settings.LOGIN_TRIES if attempt.username != ANY_NAME else settings.LOGIN_TRIES_OF_A_NETWORK
        end: datetime = attempt.attempt_time + settings.LOGIN_COOL_OFF
        return end if attempt.failures_since_start >= limit and end > timezone.now() else None

    def find(self, term: str) -> Q:
        return Q(username=term) | Q(ip_address__startswith=term)

    def has_let_in_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("axes.delete_accessattempt")

    @admin.action(description="Let in again", permissions=["let_in"])
    def let_in(self, request: HttpRequest, queryset: QuerySet[AccessAttempt]) -> None:
        with transaction.atomic():
            for attempt in queryset:
                user = User.objects.filter(username=attempt.username).first()
                note(request, user or attempt, f"Let in again from {attempt.ip_address}.")
                attempt.delete()
        messages.success(request, "They may try again at once.")


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=200, help_text="Kept in the user's history, with your name.")


class RemovesSecondFactors(admin.ModelAdmin):
    """Of a user: superusers remove the second factor that a colleague has lost, and not their own."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.remove_second_factor_view)
        own: list[URLPattern] = [
            path("<uuid:user_id>/second-factor/", view, name="smsportal_user_remove_second_factor"),
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_remove_second_factor": request.user.is_superuser and object_id != str(request.user.pk)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def remove_second_factor_view(self, request: HttpRequest, user_id: UUID) -> HttpResponse:
        """Ask (GET), then remove it (POST)."""
        if not request.user.is_superuser or user_id == request.user.pk:
            raise PermissionDenied
        user = get_object_or_404(User, pk=user_id)
        form = ReasonForm(request.POST or None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "original": user,
                "title": "Remove the second factor",
                "form": form,
            }
            return TemplateResponse(request, "admin/smsportal/user/remove_second_factor.html", context)
        with transaction.atomic():
            if second_factor.remove(user):
                note(request, user, f"Removed the second factor: {form.cleaned_data['reason']}")
                messages.success(request, f"{user} has no second factor any more.")
            else:
                messages.warning(request, f"{user} had no second factor.")
        return HttpResponseRedirect(reverse("admin:smsportal_user_change", args=[user.pk]))
