"""Prepaid money: accounts, what a message costs, and the ledger of everything that moved."""

from decimal import Decimal

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from smsportal.models import User


def default_currency() -> str:
    """The operator's currency, for accounts and prices that name none."""
    return str(settings.SMS_CURRENCY)


class Account(models.Model):
    """One user's prepaid money, in one currency. `balance` and `held` repeat what the postings add up to."""

    user = models.OneToOneField(User, models.PROTECT, related_name="account")
    currency = models.CharField(max_length=3, default=default_currency, validators=[RegexValidator("^[A-Z]{3}$")])
    balance = models.DecimalField(max_digits=14, decimal_places=4, default=0, editable=False)
    held = models.DecimalField(max_digits=14, decimal_places=4, default=0, editable=False)  # part of the balance
    credit_limit = models.DecimalField(
        max_digits=14,
        decimal_places=4,
        default=0,
        validators=[MinValueValidator(0)],
        help_text="How far below zero the available money may go.",
    )
    low_balance_threshold = models.DecimalField(
        max_digits=14,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="Empty for SMS_LOW_BALANCE_THRESHOLD.",
    )
    daily_spend_limit = models.DecimalField(
        max_digits=14,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="What may be held for messages in one day (UTC), given back or not; empty for no limit.",
    )
    # The last day (UTC) on which anything was held, and how much in all.
    spent_on = models.DateField(null=True, editable=False)
    spent_today = models.DecimalField(max_digits=14, decimal_places=4, default=0, db_default=0, editable=False)
    allowed_destinations = ArrayField(
        models.CharField(max_length=16),
        default=list,
        blank=True,
        help_text="Countries and prefixes that may be sent to, with commas, such as KE, UG, +25571; empty for all.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(balance__gte=F("held") - F("credit_limit")), name="account_never_below_its_credit_limit"
            ),
            models.CheckConstraint(condition=Q(held__gte=0), name="account_held_not_negative"),
            models.CheckConstraint(condition=Q(credit_limit__gte=0), name="account_credit_limit_not_negative"),
        ]
        permissions = [("move_money", "Can top up and adjust accounts")]

    def __str__(self) -> str:
        return self.user.get_username()

    def threshold(self) -> Decimal:
        """At or below which the available money is low."""
        own = self.low_balance_threshold
        if own is None and self.user.is_test_twin:
            own = self.user.live.account.low_balance_threshold
        return Decimal(settings.SMS_LOW_BALANCE_THRESHOLD) if own is None else own

    def available(self) -> Decimal:
        """What can be spent now, credit included."""
        return self.balance - self.held + self.credit_limit


class Price(models.Model):
    """What one segment to numbers of a prefix costs from a moment on, for one user or, without one, for all."""

    user = models.ForeignKey(User, models.CASCADE, null=True, blank=True, related_name="prices")
    prefix = models.CharField(
        max_length=15,
        blank=True,
        validators=[RegexValidator("^[1-9][0-9]*$", "Digits without + or leading zeros.")],
        help_text="First digits of the number, without +; empty for all numbers.",
    )
    price_per_segment = models.DecimalField(max_digits=14, decimal_places=4)
    currency = models.CharField(max_length=3, default=default_currency, validators=[RegexValidator("^[A-Z]{3}$")])
    effective_from = models.DateTimeField()
    reason = models.CharField(max_length=200)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+", editable=False)

    class Meta:
        constraints = [
            # The upper end keeps the dearest message, 255 segments, within 14 digits.
            models.CheckConstraint(
                condition=Q(price_per_segment__gt=0, price_per_segment__lte=1_000_000), name="price_positive_and_sane"
            ),
            models.UniqueConstraint(
                fields=["user", "prefix", "currency", "effective_from"], name="price_of_a_user_once_per_moment"
            ),
            models.UniqueConstraint(
                fields=["prefix", "currency", "effective_from"],
                condition=Q(user=None),
                name="price_for_all_once_per_moment",
            ),
        ]
        ordering = ["prefix", "-effective_from"]

    def __str__(self) -> str:
        return f"{self.prefix or 'default'}: {self.price_per_segment.normalize():f} {self.currency}"


class Posting(models.Model):
    """One line of the ledger: money given, set aside or taken on an account. Never edited, never deleted."""

    class Kind(models.TextChoices):
        TOP_UP = "top_up"
        ADJUSTMENT = "adjustment"
        HOLD = "hold"
        CAPTURE = "capture"
        RELEASE = "release"

    account = models.ForeignKey(Account, models.PROTECT, related_name="postings")
    kind = models.CharField(max_length=10, choices=Kind)
    # In the account's currency. Only an adjustment may be negative: a hold and what settles it are the same amount.
    amount = models.DecimalField(max_digits=14, decimal_places=4)
    balance_after = models.DecimalField(max_digits=14, decimal_places=4)
    held_after = models.DecimalField(max_digits=14, decimal_places=4)
    settles = models.OneToOneField("self", models.PROTECT, null=True, related_name="settlement")  # a hold ends once
    reference = models.CharField(max_length=64)  # what caused it: one acceptance of a message, one payment
    reason = models.CharField(max_length=200, blank=True)
    created_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0) | (Q(kind="adjustment") & ~Q(amount=0)), name="posting_amount_has_its_sign"
            ),
            models.CheckConstraint(
                condition=Q(kind__in=["capture", "release"], settles__isnull=False)
                | (~Q(kind__in=["capture", "release"]) & Q(settles=None)),
                name="posting_settles_if_and_only_if_it_ends_a_hold",
            ),
            models.UniqueConstraint(fields=["kind", "reference"], name="posting_once_per_cause"),
        ]
        indexes = [models.Index(fields=["account", "-id"], name="posting_of_account")]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount.normalize():f} ({self.reference})"
