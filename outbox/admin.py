"""The admin of messages, attempts, receipts, providers and dispatchers. They are read; what is done here, by POST and
with a reason, is to send failed messages again and to stop and start providers.
"""

import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from outbox import bulk_resend, circuits, sending, workers
from outbox.models import HIDDEN, Attempt, AttemptCount, Outbox, ProviderState, Receipt, Worker
from outbox.validation import clean_recipient
from smsportal.exceptions import DomainError
from smsportal.log_admin import LogAdmin, note
from smsportal.models import User


def without_text(entry: Outbox | None, details: str | None) -> str | None:
    """What a provider said about a message, unless it repeats a text that nobody may read."""
    return HIDDEN if entry and details and entry.is_private() and entry.text in details else details


def shown_raw(entry: Outbox | None, receipt: Receipt) -> str:
    """A receipt as it came. Gateways repeat the text in ways of their own, so a private one is hidden whole."""
    return HIDDEN if entry and entry.is_private() else json.dumps(receipt.raw, indent=2, ensure_ascii=False)


class CreatedFilter(admin.SimpleListFilter):
    """When a message was created: the last days, or one day of the calendar (UTC).

    Ids are made in the order of time, so the filter reads a range of the primary key; times decide at its edges, since
    ids are made by the clocks of many machines.
    """

    title = "time"
    parameter_name = "created"
    template = "admin/outbox/outbox/created_filter.html"
    CLOCKS_DIFFER_BY = 3600  # seconds
    DAYS = {"1d": ("Last 24 hours", 1), "7d": ("Last 7 days", 7), "30d": ("Last 30 days", 30)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        self.others = [(name, value) for name, value in request.GET.items() if name not in (self.parameter_name, "p")]
        return [(value, label) for value, (label, _) in self.DAYS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> QuerySet[Outbox]:
        begin, end = self._period()
        if begin:
            queryset = queryset.filter(
                created_at__gte=begin, id__gte=_first_id(begin.timestamp() - self.CLOCKS_DIFFER_BY)
            )
        if end:
            queryset = queryset.filter(created_at__lt=end, id__lt=_first_id(end.timestamp() + self.CLOCKS_DIFFER_BY))
        return queryset

    def day(self) -> str:
        """The day that was asked for; "" for none."""
        begin, end = self._period()
        return begin.date().isoformat() if begin and end else ""

    def _period(self) -> tuple[datetime | None, datetime | None]:
        value = self.value() or ""
        if value in self.DAYS:
            return timezone.now() - timedelta(days=self.DAYS[value][1]), None
        try:
            begin = datetime.combine(date.fromisoformat(value), datetime.min.time(), UTC)
            return begin, begin + timedelta(days=1)
        except (ValueError, OverflowError):
            return None, None


def _first_id(timestamp: float) -> uuid.UUID:
    """The lowest UUIDv7 of a moment: its first 48 bits are the milliseconds since 1970."""
    milliseconds = min(max(int(timestamp * 1000), 0), 2**48 - 1)
    return uuid.UUID(int=milliseconds << 80)


def _uuid(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


def _recipient(term: str) -> str | None:
    """A number as it is stored, from a number as it is typed, with its + or without."""
    for typed in (term, f"+{term}"):
        try:
            return clean_recipient(typed)
        except ValidationError:
            continue
    return None


# A message as its preview showed it: its id and the resends it had.
PREVIEWED = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/([0-9]{1,4})")


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=200, help_text="Kept in each message's history, with your name.")


ERROR = ("shown_error_code", "shown_error_details")
SENDING = ("last_attempt_at", "sent_at", "delivered_at")


@admin.register(Outbox)
class OutboxAdmin(LogAdmin):
    """Every message, newest first. Nothing of it is edited; failed ones can be sent again."""

    actions = ["resend"]
    list_display = (
        *("created_at", "user", "recipient", "status", "outcome", "delivery", "units"),
        *("cost", "charge", "shown_error_code"),
    )
    list_filter = ("status", "outcome", "delivery_status", "charge_status", CreatedFilter)
    list_select_related = ("user",)
    links = ("user__id__exact",)
    search_help_text = "Exactly: an outbox id, a recipient's number, a message id, or a user name."
    fieldsets = [
        (None, {"fields": [("user", "recipient", "sender_id"), "shown_text"]}),
        (
            "State",
            {"fields": [("status", "outcome", "delivery"), ("retry_count", "max_retries", "attempt_count"), ERROR]},
        ),
        ("Price", {"fields": [("encoding", "units", "price_per_segment"), ("cost", "charge")]}),
        ("Times (UTC)", {"fields": [("created_at", "scheduled_at", "due_at"), SENDING, ("expires_at",)]}),
        ("The caller's own", {"fields": [("message_id", "message_name"), ("priority", "tags"), "custom_data"]}),
    ]

    @admin.display(description="delivery")
    def delivery(self, entry: Outbox) -> str:
        return entry.get_delivery_status_display() or "-"

    @admin.display(description="units")
    def units(self, entry: Outbox) -> int:
        return entry.segments

    @admin.display(description="cost")
    def cost(self, entry: Outbox) -> str:
        return f"{entry.total_cost} {entry.currency}"

    @admin.display(description="charge")
    def charge(self, entry: Outbox) -> str:
        return entry.get_charge_status_display()

    @admin.display(description="text")
    def shown_text(self, entry: Outbox) -> str:
        return HIDDEN if entry.is_private() else entry.text

    @admin.display(description="error code")
    def shown_error_code(self, entry: Outbox) -> str:
        return entry.reason.code or "-"

    @admin.display(description="error details")
    def shown_error_details(self, entry: Outbox) -> str:
        return without_text(entry, entry.reason.details) or "-"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Outbox]:
        return Outbox.objects.explained()

    def has_resend_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("outbox.resend_outbox") and self.has_view_permission(request)

    def find(self, term: str) -> Q:
        condition = Q(message_id=term) | Q(user__in=list(User.objects.filter(username=term)))
        if (outbox_id := _uuid(term)) is not None:
            condition |= Q(pk=outbox_id)
        if (recipient := _recipient(term)) is not None:
            condition |= Q(recipient=recipient)
        return condition

    def get_urls(self) -> list[URLPattern]:
        own: list[URLPattern] = [
            path("resend/", self.admin_site.admin_view(self.resend_view), name="outbox_outbox_resend")
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_resend": self.has_resend_permission(request)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        entry = context["original"]
        context |= {
            "attempts": [(attempt, without_text(entry, attempt.error_details)) for attempt in entry.attempts.all()],
            "receipts": [(receipt, shown_raw(entry, receipt)) for receipt in entry.receipts.order_by("id")],
            "postings": entry.postings(),
        }
        return super().render_change_form(request, context, *args, **kwargs)

    # --- sending again ------------------------------------------------------------------------------------------------

    @admin.action(description="Send again…", permissions=["resend"])
    def resend(self, request: HttpRequest, queryset: QuerySet[Outbox]) -> HttpResponse:
        """Those that were ticked, and never all that a search finds."""
        return self._preview(request, request.POST.getlist(ACTION_CHECKBOX_NAME))

    def resend_view(self, request: HttpRequest) -> HttpResponse:
        """POST only: show what would happen to the messages that are named, or do it once a reason confirms it."""
        if not self.has_resend_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        confirmed = [match.groups() for match in map(PREVIEWED.fullmatch, request.POST.getlist("previewed")) if match]
        if not confirmed:
            return self._preview(request, request.POST.getlist(ACTION_CHECKBOX_NAME))
        form = ReasonForm(request.POST)
        if not form.is_valid() or len(confirmed) > bulk_resend.MAX_MESSAGES:
            return self._preview(request, [outbox_id for outbox_id, _ in confirmed], form)
        counts = {uuid.UUID(outbox_id): int(count) for outbox_id, count in confirmed}
        lines = [
            self._resend(request, entry, counts[entry.pk], form.cleaned_data["reason"])
            for entry in bulk_resend.find(counts)
        ]
        return self._page(request, "resent.html", "What was sent again", lines=lines)

    def _resend(
        self, request: HttpRequest, entry: Outbox, previewed_count: int, reason: str
    ) -> tuple[Outbox, str | None]:
        """Send one again and note who did it and why; returns it with the refusal, if any.

        previewed_count: its resends when it was previewed. A form that is sent twice sends nothing twice, even when the
        message has failed again in between.
        """
        entry.retry_count = previewed_count
        try:
            with transaction.atomic():
                sending.resend(entry)
                note(request, entry, f"Sent again for {entry.total_cost.normalize():f} {entry.currency}: {reason}")
        except DomainError as error:
            return entry, error.message
        return entry, None

    def _preview(self, request: HttpRequest, ids: list[str], form: forms.Form | None = None) -> HttpResponse:
        """Show what a resend would do and cost; changes nothing."""
        known = [outbox_id for outbox_id in map(_uuid, ids) if outbox_id]
        lines = bulk_resend.preview(bulk_resend.find(known[: bulk_resend.MAX_MESSAGES]))
        eligible = [line for line in lines if line.quote]
        return self._page(
            request,
            "resend.html",
            "Send again",
            eligible=eligible,
            refused=[line for line in lines if not line.quote],
            totals=bulk_resend.totals(eligible),
            left_out=len(known[bulk_resend.MAX_MESSAGES :]),
            form=form or ReasonForm(),
        )

    def _page(self, request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
        context |= {**self.admin_site.each_context(request), "opts": self.opts, "title": title}
        return TemplateResponse(request, f"admin/outbox/outbox/{template}", context)


class ProviderFilter(admin.SimpleListFilter):
    """The providers of the settings: to list those of the table would mean to read all of it."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.SMS_PROVIDERS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


@admin.register(Attempt)
class AttemptAdmin(LogAdmin):
    """Every handing of a message to a provider."""

    list_display = (
        *("started_at", "outbox_id", "number", "provider", "outcome", "finished_at"),
        *("provider_message_id", "error_code"),
    )
    fields = (
        *("outbox", "number", "provider", "outcome", "started_at", "finished_at", "lease_expires_at"),
        *("provider_message_id", "error_code", "shown_error_details", "hold_reference"),
    )
    list_filter = (ProviderFilter, "outcome")
    search_help_text = "Exactly: an outbox id, or a provider's message id."

    @admin.display(description="error details")
    def shown_error_details(self, attempt: Attempt) -> str:
        return without_text(attempt.outbox, attempt.error_details) or "-"

    def find(self, term: str) -> Q:
        outbox_id = _uuid(term)
        # The index of the providers' ids begins with the provider.
        by_provider = Q(provider__in=list(settings.SMS_PROVIDERS), provider_message_id=term)
        return by_provider | Q(outbox_id=outbox_id) if outbox_id else by_provider


@admin.register(Receipt)
class ReceiptAdmin(LogAdmin):
    """Every delivery receipt, whether or not it changed anything."""

    list_display = ("received_at", "provider", "status", "applied", "outbox_id", "provider_message_id")
    fields = ("received_at", "provider", "status", "applied", "outbox", "provider_message_id", "shown_raw")
    list_filter = (ProviderFilter, "status", "applied")
    search_help_text = "Exactly: an outbox id."

    @admin.display(description="as it came")
    def shown_raw(self, receipt: Receipt) -> str:
        return shown_raw(receipt.outbox, receipt)

    def find(self, term: str) -> Q | None:
        outbox_id = _uuid(term)
        return Q(outbox_id=outbox_id) if outbox_id else None


@admin.register(ProviderState)
class ProviderStateAdmin(LogAdmin):
    """Every provider that was ever to be called: whether it works, and since when. The staff stop and start it here."""

    list_display = ("provider", "shown_state", "since", "retry_at", "reason", "worked_at", "waiting")
    fields = ("provider", "shown_state", "since", "retry_at", "reason_code", "reason", "worked_at", "waiting", "counts")
    ordering = ("provider",)
    search_fields = ()

    @admin.display(description="state")
    def shown_state(self, state: ProviderState) -> str:
        return state.get_circuit_display()

    @admin.display(description="messages waiting")
    def waiting(self, state: ProviderState) -> int:
        return Outbox.objects.filter(provider=state.provider, due_at__isnull=False).count()

    @admin.display(description="attempts")
    def counts(self, state: ProviderState) -> str:
        counts = AttemptCount.objects.filter(provider=state.provider).order_by("-attempts")
        return ", ".join(f"{count.attempts} {count.outcome}" for count in counts) or "none"

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("outbox.operate_provider") and self.has_view_permission(request)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_operate": self.has_operate_permission(request)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def get_urls(self) -> list[URLPattern]:
        stop = self.admin_site.admin_view(self.stop_view)
        start = self.admin_site.admin_view(self.start_view)
        own: list[URLPattern] = [
            path("<path:provider>/stop/", stop, name="outbox_providerstate_stop"),
            path("<path:provider>/start/", start, name="outbox_providerstate_start"),
        ]
        return own + super().get_urls()

    def stop_view(self, request: HttpRequest, provider: str) -> HttpResponse:
        return self._operate(request, provider, circuits.stop, "Stop")

    def start_view(self, request: HttpRequest, provider: str) -> HttpResponse:
        return self._operate(request, provider, circuits.start, "Start")

    def _operate(self, request: HttpRequest, provider: str, act: Callable[[str], None], verb: str) -> HttpResponse:
        """Ask for the reason (GET), then stop or start the provider (POST)."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        state = get_object_or_404(ProviderState, pk=provider)
        form = ReasonForm(request.POST or None)
        if form.is_valid():
            with transaction.atomic():
                act(state.provider)
                note(request, state, f"{verb}: {form.cleaned_data['reason']}")
            return HttpResponseRedirect(reverse("admin:outbox_providerstate_change", args=[state.provider]))
        context = {"opts": self.opts, "original": state, "title": f"{verb} {state.provider}", "form": form}
        context |= {**self.admin_site.each_context(request), "waiting": self.waiting(state), "stops": verb == "Stop"}
        return TemplateResponse(request, "admin/outbox/providerstate/operate.html", context)


@admin.register(Worker)
class WorkerAdmin(LogAdmin):
    """The dispatchers: those at work, and those that were killed within the last day."""

    list_display = ("shown_name", "started_at", "beat_at", "lives", "calls")
    fields = list_display
    search_fields = ()

    @admin.display(description="dispatcher")
    def shown_name(self, worker: Worker) -> str:
        return f"{worker.host}, process {worker.pid}"

    @admin.display(description="lives", boolean=True)
    def lives(self, worker: Worker) -> bool:
        return workers.alive().filter(pk=worker.pk).exists()
