"""Messages: looked up, explained, and the failed ones sent again."""

import re
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from outbox import bulk_resend, sending
from outbox.admin.parts import ReasonForm, as_uuid, shown_raw, without_text
from outbox.models import HIDDEN, Outbox, Receipt
from outbox.validation import clean_recipient
from smsportal.exceptions import DomainError
from smsportal.log_admin import LogAdmin, note
from smsportal.models import User

MAX_RECEIPTS = 50  # shown of one message: some providers repeat theirs without end


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
        if (outbox_id := as_uuid(term)) is not None:
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
        may = {
            "may_resend": self.has_resend_permission(request),
            "may_settle": request.user.has_perm("outbox.settle_unknown"),
        }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        entry = context["original"]
        context |= {
            "attempts": [(attempt, without_text(entry, attempt.error_details)) for attempt in entry.attempts.all()],
            "receipts": [
                (receipt, shown_raw(entry, receipt)) for receipt in entry.receipts.order_by("id")[:MAX_RECEIPTS]
            ],
            "receipt_counts": [
                (Receipt.Effect(effect).label, count)
                for effect, count in entry.receipts.order_by("effect").values_list("effect").annotate(Count("pk"))
            ],
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
        known = [outbox_id for outbox_id in map(as_uuid, ids) if outbox_id]
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
