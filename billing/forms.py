"""What staff fill in about money."""

import re
import uuid
from decimal import Decimal
from typing import Any

import phonenumbers
from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.utils import timezone

from billing import ledger
from billing.models import Account, Posting, Price
from billing.pricing import prefix_of


class AccountForm(forms.ModelForm):
    """What staff may set on an account; its money is not among it."""

    class Meta:
        model = Account
        fields = (
            *("user", "currency", "credit_limit", "low_balance_threshold"),
            *("daily_spend_limit", "allowed_destinations"),
        )

    def clean_allowed_destinations(self) -> list[str]:
        """Each is a country's two letters or the first digits of numbers, with a +."""
        destinations = [typed.replace(" ", "").upper() for typed in self.cleaned_data["allowed_destinations"]]
        for destination in destinations:
            if destination not in phonenumbers.SUPPORTED_REGIONS and not re.fullmatch(r"\+[1-9][0-9]*", destination):
                raise ValidationError(f"{destination} is neither a country, such as KE, nor a prefix, such as +254.")
        return destinations

    def clean_credit_limit(self) -> Decimal:
        """Refuse a limit that the account is below already. Its row stays locked, so that no message gets between."""
        limit: Decimal = self.cleaned_data["credit_limit"]
        account = Account.objects.select_for_update().filter(pk=self.instance.pk).first()
        if account is not None and account.balance - account.held < -limit:
            used = account.held - account.balance
            raise ValidationError(f"{used.normalize():f} {account.currency} of the credit are in use.")
        return limit


class MoneyForm(forms.Form):
    """One line for the ledger. `token` names it when staff give no reference, so that one form writes one line."""

    kind: Posting.Kind

    amount = forms.DecimalField(max_digits=14, decimal_places=4)
    reference = forms.CharField(
        max_length=64,
        required=False,
        help_text="The payment's or the case's own number, used once. Empty if it has none.",
    )
    reason = forms.CharField(max_length=200, help_text="Stays in the ledger, where the account's user reads it.")
    token = forms.UUIDField(widget=forms.HiddenInput, initial=uuid.uuid4)

    def cause(self) -> str:
        """The reference of the posting this form asks for: the same each time it is sent."""
        return self.cleaned_data["reference"] or str(self.cleaned_data["token"])


class TopUpForm(MoneyForm):
    kind = Posting.Kind.TOP_UP
    amount = forms.DecimalField(max_digits=14, decimal_places=4, min_value=Decimal("0.0001"))


class AdjustForm(MoneyForm):
    kind = Posting.Kind.ADJUSTMENT
    amount = forms.DecimalField(
        max_digits=14,
        decimal_places=4,
        help_text="Below zero takes money away, such as -12.50; no more than is available.",
    )

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if amount == 0:
            raise ValidationError("An adjustment is not 0.")
        return amount


class PriceForm(forms.ModelForm):
    """A price from some moment on: a price in force is never changed, a newer one takes its place."""

    prefix = forms.CharField(  # type: ignore[assignment]  # forms have a prefix of their own; fields are kept apart
        max_length=16, required=False, help_text="First digits of the numbers, such as +254; empty for all numbers."
    )
    price_per_segment = forms.DecimalField(
        max_digits=14, decimal_places=4, min_value=Decimal("0.0001"), max_value=Decimal(1_000_000)
    )
    currency = forms.CharField(
        min_length=3, max_length=3, required=False, help_text="Empty for the user's currency, or the operator's."
    )
    effective_from = forms.SplitDateTimeField(
        required=False, widget=AdminSplitDateTime, help_text="UTC; both empty for now."
    )

    class Meta:
        model = Price
        fields = ("user", "prefix", "price_per_segment", "currency", "effective_from", "reason")
        help_texts = {"user": "Empty for all users; a user's own price goes before the general one."}

    def clean_prefix(self) -> str:
        try:
            return prefix_of(self.cleaned_data["prefix"].replace(" ", ""))
        except ValueError as error:
            raise ValidationError("Give the first digits of international numbers, such as +254.") from error

    def clean_effective_from(self) -> Any:
        now = timezone.now()
        begins = self.cleaned_data["effective_from"] or now
        if begins < now:
            raise ValidationError("A price cannot begin in the past. Leave both empty for now.")
        return begins

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        user = cleaned.get("user")
        # An account that is not opened yet will be in the default currency.
        account = Account.objects.filter(user=user).first() or Account() if user else Account()
        cleaned["currency"] = (cleaned.get("currency") or account.currency).upper()
        if user and cleaned["currency"] != account.currency:
            self.add_error(
                "currency", f"The account of {user} is in {account.currency}: the price would never be used."
            )
        same = {name: cleaned.get(name) for name in ("user", "prefix", "currency", "effective_from")}
        if "effective_from" in cleaned and "prefix" in cleaned and Price.objects.filter(**same).exists():
            self.add_error("effective_from", "There is a price for these numbers from this moment on.")
        return cleaned


def post(account: Account, form: MoneyForm, by: Any) -> Posting:
    """Write what a valid form asks for. Raises what the ledger raises."""
    write = ledger.top_up if form.kind == Posting.Kind.TOP_UP else ledger.adjust
    given = form.cleaned_data
    return write(account, given["amount"], reason=given["reason"], reference=form.cause(), by=by)
