"""The pages of the outbox: read, call, answer, in HTML and without rules of their own."""

import json
import unicodedata
import uuid
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from outbox import idempotency, limits, segments, sending
from outbox.exceptions import IdempotencyKeyReused, NotPaid
from outbox.forms import ComposeForm, FilterForm, ResendForm
from outbox.models import Outbox
from outbox.providers import SIMULATOR
from outbox.segments import Segmentation
from smsportal.exceptions import DomainError
from smsportal.models import User
from smsportal.visits import Visit, page

PAGE_SIZE = 50
# How often a page looks again at what may change: seconds.
SOON, LATER = 2, 20


# --- the log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """Neighbours in the log, newest first, and whether there are others on either side."""

    entries: list[Outbox]
    has_newer: bool
    has_older: bool


@page("GET", "HEAD")
def log(request: Visit) -> HttpResponse:
    """Your messages, newest first."""
    form = FilterForm(request.GET)
    found = _slice(form.choose(request.user.outbox.all()), _cursor(request, "before"), _cursor(request, "after"))
    context = {
        "form": form,
        "page": found,
        "is_filtered": any(request.GET.get(name) for name in form.fields),
        "refresh_s": min(filter(None, map(_refresh_s, found.entries)), default=0),
    }
    return render(request, "outbox/list.html", context)


def _slice(entries: QuerySet[Outbox], before: uuid.UUID | None, after: uuid.UUID | None) -> Slice:
    """The next PAGE_SIZE beyond a message; the newest of all without one, or when fewer are newer than that one."""
    if after:
        newer = list(entries.filter(pk__gt=after).order_by("pk")[: PAGE_SIZE + 1])
        if len(newer) > PAGE_SIZE:
            return Slice(newer[:PAGE_SIZE][::-1], has_newer=True, has_older=True)
    older = entries.filter(pk__lt=before) if before else entries
    found = list(older.order_by("-pk")[: PAGE_SIZE + 1])
    return Slice(found[:PAGE_SIZE], has_newer=before is not None, has_older=len(found) > PAGE_SIZE)


def _cursor(request: HttpRequest, name: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(request.GET[name]) if name in request.GET else None
    except ValueError as error:
        raise Http404 from error


# --- one message ------------------------------------------------------------------------------------------------------


@page("GET", "HEAD")
def detail(request: Visit, outbox_id: uuid.UUID) -> HttpResponse:
    """One message: where it stands, who was asked to send it, what it cost."""
    entry = get_object_or_404(request.user.outbox.explained(), pk=outbox_id)
    context = {
        "entry": entry,
        "waits_for_its_time": entry.due_at is not None and entry.due_at > timezone.now(),
        "attempts": entry.attempts.all(),
        "receipts": entry.receipts.order_by("pk"),
        "postings": entry.postings(),
        "custom_data": json.dumps(entry.custom_data, indent=2, ensure_ascii=False) if entry.custom_data else "",
        "refresh_s": _refresh_s(entry),
    }
    return render(request, "outbox/detail.html", context)


def _refresh_s(entry: Outbox) -> int:
    """In how many seconds to look at a message again; 0 when nothing more is to be expected soon."""
    now = timezone.now()
    if entry.status == Outbox.Status.PENDING:
        far_off = entry.due_at is not None and entry.due_at > now + timedelta(minutes=1)
        return LATER if far_off or entry.outcome else SOON
    if entry.status == Outbox.Status.SENT and entry.delivery_status is None and entry.last_attempt_at:
        age = now - entry.last_attempt_at  # receipts come within seconds, or late, or never
        return SOON if age < timedelta(minutes=1) else LATER if age < timedelta(hours=1) else 0
    return 0


# --- send it again ----------------------------------------------------------------------------------------------------


@page("GET", "HEAD", "POST")
def resend(request: Visit, outbox_id: uuid.UUID) -> HttpResponse:
    """GET says what another try costs and asks; POST does it."""
    entry = get_object_or_404(request.user.outbox, pk=outbox_id)
    form = ResendForm(request.POST)
    if request.method == "POST" and form.is_valid():
        return _resend(request, entry, **form.cleaned_data)
    if not entry.may_be_resent():
        return redirect("outbox:detail", entry.pk)  # it says why not
    context: dict[str, Any] = {"entry": entry}
    try:
        quoted = sending.quote_resend(entry)
    except DomainError as error:
        context["refusal"] = error.message
    else:
        context |= {"quote": quoted, "balance_after": quoted.account.available() - quoted.total_cost}
        context["form"] = ResendForm(initial={"total_cost": quoted.total_cost})
    return render(request, "outbox/resend.html", context)


def _resend(request: Visit, entry: Outbox, total_cost: Decimal, once: uuid.UUID) -> HttpResponse:
    """Send it again, at the price that was agreed to, and say what came of it."""
    again = idempotency.Request(
        request.user, idempotency.fingerprint("resend page", {"outbox": entry.pk}), f"page-{once}"
    )
    try:
        again.refuse_repeated()
        if sending.quote_resend(entry).total_cost != total_cost:
            messages.warning(request, "The price has changed in the meantime: look at it first.")
            return redirect("outbox:resend", entry.pk)
        sending.resend(entry, request=again)
    except idempotency.Repeated:
        messages.info(request, "This resend was asked for before. It was done once.")
    except NotPaid as error:
        messages.error(request, f"Not sent again: {error.message} Top up, then send it again.")
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "It is being sent again.")
    return redirect("outbox:detail", entry.pk)


# --- a new message ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preview:
    """What can be said about a message before it is sent, as far as it has been typed."""

    segmentation: Segmentation | None = None
    quote: sending.Quote | None = None
    refusal: str = ""

    @property
    def balance_after(self) -> Decimal | None:
        return self.quote.account.available() - self.quote.total_cost if self.quote else None

    @property
    def characters_forcing_ucs2(self) -> list[tuple[str, str]]:
        """Each with its name: many look like plain ones, and some like nothing."""
        characters = self.segmentation.characters_forcing_ucs2[:8] if self.segmentation else ()
        return [(character, unicodedata.name(character, f"U+{ord(character):04X}")) for character in characters]


@page("GET", "HEAD", "POST")
def compose(request: Visit) -> HttpResponse:
    """Write a message. POST sends it, or with `check` only says what it would cost."""
    if request.method != "POST":
        return _show_compose(request, ComposeForm(user=request.user))
    form = ComposeForm(request.POST, user=request.user)
    if form.is_valid() and "check" not in request.POST:
        return _send(request, form)
    if "once" in form.errors:
        form.begin_anew()
    return _show_compose(request, form)


def _send(request: Visit, form: ComposeForm) -> HttpResponse:
    """Send what the form holds, once; show the form again when it is refused."""
    message = form.message()
    repeatable = idempotency.Request(
        request.user, idempotency.fingerprint("compose page", message), f"page-{form.cleaned_data['once']}"
    )
    try:
        entry = sending.send(request.user, **message, request=repeatable)
    except idempotency.Repeated as repeated:
        messages.info(request, "This form was sent before. The message was accepted once.")
        entry = repeated.entry
    except NotPaid as error:
        messages.error(
            request, f"Not sent: {error.message} The message is kept here; send it again when you have topped up."
        )
        entry = error.entry
    except IdempotencyKeyReused:
        form.begin_anew()
        form.refuse(ValidationError("You have sent this form before, with other words. To send these too, send again."))
        return _show_compose(request, form)
    except ValidationError as error:
        form.refuse(error)
        return _show_compose(request, form)
    except DomainError as error:
        form.refuse(ValidationError(error.message))
        return _show_compose(request, form)
    else:
        if limits.duplicate_of(entry):
            messages.warning(request, "The same text went to this number a moment ago, too. Both are sent.")
    return redirect("outbox:detail", entry.pk)


def _show_compose(request: Visit, form: ComposeForm) -> HttpResponse:
    context = {
        "form": form,
        "preview": _preview(request.user, form) if form.is_bound else Preview(),
        "behaviours": _simulated_behaviours(),
    }
    return render(request, "outbox/compose.html", context)


def _preview(user: User, form: ComposeForm) -> Preview:
    text, recipient = form.cleaned_data.get("text"), form.cleaned_data.get("recipient")
    if not text:
        return Preview()
    segmentation = segments.count(text)
    if not recipient:
        return Preview(segmentation)
    try:
        return Preview(segmentation, sending.quote(user, recipient, text))
    except DomainError as error:
        return Preview(segmentation, refusal=error.message)


def _simulated_behaviours() -> list[tuple[str, str]]:
    """What the simulator does for which numbers, where it plays the provider."""
    if not any(provider["BACKEND"] == SIMULATOR for provider in settings.SMS_PROVIDERS.values()):
        return []
    from outbox.providers.simulator import BEHAVIOURS

    return BEHAVIOURS
