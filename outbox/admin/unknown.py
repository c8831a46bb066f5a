"""The messages of unknown outcome, the oldest first: the staff ask the provider, and say here what it said."""

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.timesince import timesince

from outbox import outcomes
from outbox.admin.parts import ReasonForm, as_uuid, without_text
from outbox.models import Attempt, Outbox, UnknownOutcome
from smsportal.exceptions import DomainError
from smsportal.log_admin import LogAdmin, note

NOT_SENT_DETAILS = "The operator has found that it was not sent. Your money was given back, and you can send it again."


def _latest(entry: Outbox) -> Attempt:
    return list(entry.attempts.all())[-1]  # all of them were fetched with the list


class CasesField(forms.Field):
    """Messages as the page showed them: the id of each, and the number of the attempt that is in doubt."""

    widget = forms.MultipleHiddenInput

    def to_python(self, value: Any) -> list[tuple[UUID, int]]:
        try:
            cases = [case.rsplit("/", 1) for case in value or []]
            return [(UUID(outbox_id), int(number)) for outbox_id, number in cases]
        except ValueError as error:
            raise ValidationError("This form is not one of ours.") from error


class VerdictForm(ReasonForm):
    """What the staff have found out, about all messages of the page alike."""

    verdict = forms.ChoiceField(
        widget=forms.RadioSelect,
        choices=[
            ("sent", "It was sent"),
            ("not_sent", "It was not sent"),
        ],
        help_text="Sent: it is charged. Not sent: it fails, and its money is given back.",
    )
    cases = CasesField()
    field_order = ("verdict", "reason")


@admin.register(UnknownOutcome)
class UnknownOutcomeAdmin(LogAdmin):
    """Every message of unknown outcome. Who may settle them says whether they were sent, with a reason."""

    actions = ["settle"]
    list_display = (
        *("shown_message", "last_attempt_at", "age", "ends_at"),
        *("user", "recipient", "provider", "cost", "why"),
    )
    list_display_links = None
    list_select_related = ("user",)
    ordering = ("last_attempt_at",)
    search_help_text = "Exactly: an outbox id."

    @admin.display(description="message")
    def shown_message(self, entry: Outbox) -> str:
        return format_html('<a href="{}">{}</a>', reverse("admin:outbox_outbox_change", args=[entry.pk]), entry.pk)

    @admin.display(description="age")
    def age(self, entry: Outbox) -> str:
        return timesince(entry.last_attempt_at or timezone.now())

    @admin.display(description="given up at")
    def ends_at(self, entry: Outbox) -> Any:
        return entry.unknown_until()

    @admin.display(description="cost, held")
    def cost(self, entry: Outbox) -> str:
        return f"{entry.total_cost} {entry.currency}"

    @admin.display(description="what happened")
    def why(self, entry: Outbox) -> str:
        return without_text(entry, _latest(entry).error_details) or "-"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return UnknownOutcome.objects.doubtful().prefetch_related("attempts")

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        """A message has one page, which hides what is private."""
        return HttpResponseRedirect(reverse("admin:outbox_outbox_change", args=[object_id]))

    def history_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:outbox_outbox_history", args=[object_id]))

    def find(self, term: str) -> Q | None:
        outbox_id = as_uuid(term)
        return Q(pk=outbox_id) if outbox_id else None

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("outbox.view_outbox")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_settle_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("outbox.settle_unknown") and self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        own: list[URLPattern] = [
            path("settle/", self.admin_site.admin_view(self.settle_view), name="outbox_unknownoutcome_settle")
        ]
        return own + super().get_urls()

    @admin.action(description="Settle…", permissions=["settle"])
    def settle(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        """Those that were ticked, and never all that a search finds."""
        chosen = urlencode([("id", one) for one in request.POST.getlist(ACTION_CHECKBOX_NAME)])
        return HttpResponseRedirect(f"{reverse('admin:outbox_unknownoutcome_settle')}?{chosen}")

    def settle_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows the messages that are named and asks; POST settles those that the form showed."""
        if not self.has_settle_permission(request):
            raise PermissionDenied
        form = VerdictForm(request.POST) if request.method == "POST" else None
        if form and form.is_valid():
            for outbox_id, number in form.cleaned_data["cases"]:
                self._settle(request, outbox_id, number, form.cleaned_data["verdict"], form.cleaned_data["reason"])
            return HttpResponseRedirect(reverse("admin:outbox_unknownoutcome_changelist"))
        ids = [outbox_id for outbox_id in map(as_uuid, request.GET.getlist("id")[: self.list_per_page]) if outbox_id]
        entries = list(self.get_queryset(request).filter(pk__in=ids).select_related("user").order_by("last_attempt_at"))
        if form is None and entries:
            form = VerdictForm(initial={"cases": [f"{entry.pk}/{entry.attempt_count}" for entry in entries]})
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Settle unknown outcomes",
            "form": form,
            "cases": [(entry, _latest(entry), self.why(entry)) for entry in entries],
            "already_settled": len(ids) - len(entries),
        }
        return TemplateResponse(request, "admin/outbox/unknownoutcome/settle.html", context)

    def _settle(self, request: HttpRequest, outbox_id: UUID, attempt_number: int, verdict: str, reason: str) -> None:
        """Settle one message and note who did it and why; says what came of it on the next page."""
        sent = verdict == "sent"
        try:
            with transaction.atomic():
                entry = outcomes.settle_unknown(outbox_id, attempt_number, sent=sent, details=NOT_SENT_DETAILS)
                note(request, entry, f"Settled as {'sent' if sent else 'not sent'}: {reason}")
        except (DomainError, Outbox.DoesNotExist) as error:
            messages.error(request, f"{outbox_id}: nothing was changed. {error}")
        else:
            money = "charged" if sent else "given back"
            messages.success(
                request, f"{entry.pk}: {entry.status}, {entry.total_cost} {entry.currency} {money} ({entry.user})."
            )
