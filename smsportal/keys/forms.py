"""The forms of keys, on the pages and in the admin."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.postgres.forms import SimpleArrayField

from smsportal.models import ApiKey, validate_ip_range

HOUR = timedelta(hours=1)


class KeyForm(forms.ModelForm):
    """A new key and its rights."""

    is_test = forms.BooleanField(
        label="Test key",
        required=False,
        help_text="Everything works, and nothing is sent: a simulator answers, and play money pays.",
    )
    scopes = forms.MultipleChoiceField(
        choices=ApiKey.Scope.choices,
        initial=ApiKey.Scope.values,
        widget=forms.CheckboxSelectMultiple,
        label="The key may",
        error_messages={"required": "Choose at least one."},
    )
    allowed_sender_ids = SimpleArrayField(
        forms.CharField(max_length=16),
        required=False,
        max_length=50,
        label="Sender IDs",
        help_text="The key may send as these only, separated by commas. Empty: as any that its user may use.",
    )
    allowed_ip_ranges = SimpleArrayField(
        forms.CharField(max_length=43, validators=[validate_ip_range]),
        required=False,
        max_length=50,
        label="IP ranges",
        help_text="The key works from these only, as 192.0.2.0/24, 2001:db8::/32. Empty: from anywhere.",
    )

    class Meta:
        model = ApiKey
        fields: tuple[str, ...] = ("name", "is_test", "scopes", "expires_at", "allowed_sender_ids", "allowed_ip_ranges")
        labels = {"expires_at": "Ends (UTC)"}
        help_texts = {
            "name": "What the key is for, such as the app that uses it.",
            "expires_at": "Empty: it works until it is revoked.",
        }
        widgets: dict[str, Any] = {
            "expires_at": forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"})
        }
        error_messages = {"expires_at": {"invalid": "Type a date and time as 2027-01-31T09:00."}}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("is_test") and cleaned.get("may_act_for_others"):
            self.add_error("is_test", "A test key acts for its own user only.")
        return cleaned


class RotateForm(forms.Form):
    keep_hours = forms.IntegerField(
        label="The old key works on for (hours)",
        initial=ApiKey.KEPT_AFTER_ROTATION // HOUR,
        min_value=0,
        max_value=ApiKey.LONGEST_KEPT // HOUR,
        help_text="Long enough to put the new key wherever the old one is. 0: it ends at once.",
    )
