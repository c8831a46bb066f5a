"""The forms of the pages: they turn what was typed into what the domain's own functions take."""

import uuid
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db.models import QuerySet

from outbox import sender_ids, validation
from outbox.exceptions import SenderIdNotAllowed
from outbox.filters import OutboxFilter
from outbox.models import Outbox
from smsportal.models import User

# The states a person tells apart, as the API's filters say them.
STATES = {
    "pending": {"status": "pending"},
    "unknown": {"outcome": "unknown"},
    "sent": {"status": "sent"},
    "delivered": {"deliveryStatus": "delivered"},
    "failed": {"status": "failed"},
}
LAST_DAY = date.max - timedelta(days=1)


def new_id() -> str:
    """What a form is known by: sent twice, it does its work once."""
    return str(uuid.uuid4())


class OnceField(forms.UUIDField):
    """The hidden id of one showing of a form: its idempotency key."""

    widget = forms.HiddenInput

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(initial=new_id, **kwargs)


def day_field(label: str) -> forms.DateField:
    # Only ISO 8601, as date inputs send it: 3/4 is not the same day everywhere.
    widget = forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})
    return forms.DateField(
        label=label,
        required=False,
        input_formats=["%Y-%m-%d"],
        widget=widget,
        validators=[MaxValueValidator(LAST_DAY)],
        error_messages={"invalid": "Type a date as 2027-01-31."},
    )


class FilterForm(forms.Form):
    """Which messages of the log to show. Empty fields ask for nothing."""

    status = forms.ChoiceField(
        required=False,
        choices=[
            ("", "Any"),
            ("pending", "Pending, unknown too"),
            ("unknown", "Unknown"),
            ("sent", "Sent, delivered too"),
            ("delivered", "Delivered"),
            ("failed", "Failed"),
        ],
    )
    tag = forms.CharField(required=False, max_length=validation.MAX_TAG_LENGTH)
    since = day_field("From")
    until = day_field("To")
    recipient = forms.CharField(
        required=False, max_length=64, widget=forms.TextInput(attrs={"type": "tel", "placeholder": "+254712345678"})
    )

    def choose(self, entries: QuerySet[Outbox]) -> QuerySet[Outbox]:
        """Those of `entries` that were asked for; none while a field makes no sense."""
        if not self.is_valid():
            return entries.none()
        return OutboxFilter(self._api_filters(), queryset=entries).qs  # type: ignore[no-any-return]  # no types

    def _api_filters(self) -> dict[str, str]:
        asked = self.cleaned_data
        filters = {"recipientPhoneNumber": asked["recipient"], "tag": asked["tag"]}
        filters |= STATES.get(asked["status"], {})
        if since := asked["since"]:
            filters["createdAfter"] = _midnight(since)
        if until := asked["until"]:  # the day itself included
            filters["createdBefore"] = _midnight(until + timedelta(days=1))
        return filters


def _midnight(day: date) -> str:
    return datetime.combine(day, time(), UTC).isoformat()


class ComposeForm(forms.Form):
    """A message as a person types it."""

    recipient = forms.CharField(
        label="To",
        max_length=64,
        widget=forms.TextInput(attrs={"type": "tel", "placeholder": "+254712345678", "autocomplete": "off"}),
    )
    text = forms.CharField(
        label="Message", max_length=10_000, strip=False, widget=forms.Textarea(attrs={"rows": 5, "dir": "auto"})
    )
    sender_id = forms.CharField(label="Sender ID", required=False)
    tags = forms.CharField(required=False, help_text="Separated by commas. Text tagged OTP is hidden in the log.")
    scheduled_at = forms.DateTimeField(
        label="Send at (UTC)",
        required=False,
        widget=forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"}),
        help_text="Empty: at once.",
        error_messages={"invalid": "Type a date and time as 2027-01-31T09:00."},
    )
    priority = forms.ChoiceField(
        choices=[("normal", "Normal"), ("high", "High: before all normal ones")], required=False
    )
    once = OnceField()

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        default = user.default_sender_id
        empty = "Empty: your default." if default else "Empty: the provider's default."
        approved = ", ".join(sender_ids.approved_for(user)) or "none"
        self.fields["sender_id"].help_text = f"{empty} Approved for you: {approved}."
        self.fields["sender_id"].widget.attrs["placeholder"] = default

    def clean_recipient(self) -> str:
        return validation.clean_recipient(self.cleaned_data["recipient"])

    def clean_text(self) -> str:
        # Browsers send every line end as two characters (HTML, "constructing the entry list"); a person typed one.
        return validation.clean_text(self.cleaned_data["text"].replace("\r\n", "\n"))

    def clean_sender_id(self) -> str | None:
        sender_id = self.cleaned_data["sender_id"]
        try:
            return sender_ids.clean(sender_id, self.user) if sender_id else None
        except SenderIdNotAllowed as error:
            raise ValidationError(error.message, error.code) from error

    def clean_tags(self) -> list[str]:
        typed = self.cleaned_data["tags"].split(",")
        return validation.clean_tags([tag.strip() for tag in typed if tag.strip()])

    def clean_priority(self) -> Outbox.Priority:
        return Outbox.Priority[(self.cleaned_data["priority"] or "normal").upper()]

    def message(self) -> dict[str, Any]:
        """What sending.send() takes."""
        return {name: value for name, value in self.cleaned_data.items() if name != "once"}

    def refuse(self, error: ValidationError) -> None:
        """Show what the domain refused beside the fields it names."""
        self.add_error(None, error)

    def begin_anew(self) -> None:
        """Give a form that is shown again an id of its own: what it holds now is another message."""
        self.data = {**{name: self.data.get(name) for name in self.data}, "once": new_id()}


class SenderIdForm(forms.Form):
    """A sender ID to ask the staff for."""

    name = forms.CharField(
        label="Sender ID",
        max_length=32,
        strip=False,
        help_text="1 to 11 letters A-Z, digits or inner spaces, with a letter; or a phone number of your own.",
    )


class ResendForm(forms.Form):
    """A confirmed resend: the price that was agreed to, and the id of the question."""

    total_cost = forms.DecimalField(max_digits=14, decimal_places=4, widget=forms.HiddenInput)
    once = OnceField()
