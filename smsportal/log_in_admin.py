"""The admin of log-ins: who has been locked out."""

from datetime import datetime

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from smsportal.lockout import ANY_NAME
from smsportal.log_admin import LogAdmin, note
from smsportal.models import User


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
