"""The outbox: every message that was asked for, whatever became of it, and every attempt to hand it to a provider."""

from datetime import datetime, timedelta
from typing import NamedTuple, Self

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.functions import Now

from billing.models import Posting
from outbox.providers import TEST_PROVIDER
from smsportal.models import User, uuid7


class OutboxQuerySet(models.QuerySet["Outbox"]):
    def due(self) -> Self:
        """What a dispatcher should hand over now, the longest waiting first."""
        return self.filter(due_at__lte=Now(), expires_at__gt=Now()).order_by("due_at")

    def overdue(self) -> Self:
        """What is still waiting although its time to be sent has passed."""
        return self.filter(due_at__isnull=False, expires_at__lte=Now())

    def doubtful(self) -> Self:
        """What nobody knows to be sent or not, and the staff have to find out. Tests are nobody's trouble."""
        return self.filter(outcome=Outbox.Outcome.UNKNOWN, is_test=False)

    def explained(self) -> Self:
        """Entries that can tell, in their `reason`, that they wait for a provider that is paused at this moment."""
        paused = ProviderState.objects.filter(provider=OuterRef("provider")).exclude(circuit="closed")
        return self.annotate(is_held_up=Q(due_at__lte=Now()) & Exists(paused))


class Reason(NamedTuple):
    """Why a message is where it is: a stable word of ours, and a sentence for a person; None when all is well."""

    code: str | None
    details: str | None


HIDDEN = "hidden: a one-time password"  # stands where a private text would be shown

# Of a message whose provider cannot take it now, through no fault of its own. The staff are told more.
PROVIDER_PAUSED = Reason(
    "provider_unavailable",
    "The provider for this number is temporarily unavailable. The message waits, and is tried again by itself.",
)


class Outbox(models.Model):
    """One message: what was asked, what it costs, where it stands. A resend is the same row, tried again.

    A pending row is in one of three places: waiting (`due_at` says for when), in a provider's hands (its last
    attempt has no outcome yet), or unknown (`outcome`: the provider may have taken it and did not say so).
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        FAILED = "failed"

    class Outcome(models.TextChoices):
        UNKNOWN = "unknown"

    class ChargeStatus(models.TextChoices):
        NONE = "none"
        HELD = "held"
        CHARGED = "charged"
        RELEASED = "released"

    class DeliveryStatus(models.TextChoices):
        DELIVERED = "delivered"
        UNDELIVERED = "undelivered"

    class Priority(models.IntegerChoices):
        NORMAL = 0
        HIGH = 1

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, models.PROTECT, related_name="outbox")
    is_test = models.BooleanField(default=False)  # by a test key: only the simulator gets it, and play money pays
    recipient = models.CharField(max_length=16)  # E.164
    text = models.TextField()
    sender_id = models.CharField(max_length=16, null=True)
    message_id = models.CharField(max_length=128)  # the caller's own id; ours when the caller gave none
    message_name = models.CharField(max_length=128, null=True)
    request_fingerprint = models.CharField(max_length=64, editable=False)  # tells a repeated request from another one

    encoding = models.CharField(max_length=5)  # GSM-7 or UCS-2
    segments = models.PositiveSmallIntegerField()
    price_per_segment = models.DecimalField(max_digits=14, decimal_places=4)
    total_cost = models.DecimalField(max_digits=14, decimal_places=4)
    currency = models.CharField(max_length=3)
    charge_status = models.CharField(max_length=8, choices=ChargeStatus, default=ChargeStatus.NONE)

    status = models.CharField(max_length=7, choices=Status, default=Status.PENDING)
    outcome = models.CharField(max_length=7, choices=Outcome, null=True)
    delivery_status = models.CharField(max_length=11, choices=DeliveryStatus, null=True)
    error_code = models.CharField(max_length=40, null=True)
    error_details = models.TextField(null=True)

    created_at = models.DateTimeField(db_default=Now())
    scheduled_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField(null=True)  # when a dispatcher takes it; null when none should
    expires_at = models.DateTimeField()
    validity_minutes = models.PositiveIntegerField()  # how long it may wait, at each acceptance
    provider = models.CharField(max_length=64, null=True)  # in whose queue it is, or was last; null: no route yet
    last_attempt_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)  # first accepted by a provider
    delivered_at = models.DateTimeField(null=True)

    retry_count = models.PositiveSmallIntegerField(default=0)  # resends
    max_retries = models.PositiveSmallIntegerField()
    attempt_count = models.PositiveIntegerField(default=0)

    priority = models.PositiveSmallIntegerField(choices=Priority, default=Priority.NORMAL)
    tags = ArrayField(models.CharField(max_length=64), default=list)
    custom_data = models.JSONField(null=True)

    objects = OutboxQuerySet.as_manager()

    class Meta:
        verbose_name = "message"
        verbose_name_plural = "outbox"
        constraints = [
            # Here and in `outbox_by_recipient` the user comes second: staff search without one.
            models.UniqueConstraint(fields=["message_id", "user"], name="outbox_message_id_once_per_user"),
            models.CheckConstraint(
                condition=Q(total_cost=F("segments") * F("price_per_segment")),
                name="outbox_cost_is_segments_times_price",
            ),
            models.CheckConstraint(condition=Q(segments__gt=0, price_per_segment__gt=0), name="outbox_cost_positive"),
            models.CheckConstraint(
                condition=Q(outcome=None) | Q(status="pending", due_at=None),
                name="outbox_unknown_is_pending_and_not_due",
            ),
            models.CheckConstraint(condition=Q(due_at=None) | Q(status="pending"), name="outbox_only_pending_is_due"),
            models.CheckConstraint(
                condition=~Q(status="pending") | Q(charge_status="held"), name="outbox_pending_is_paid_for"
            ),
            # A test never reaches a real provider, and nobody pays for what only the simulator got.
            models.CheckConstraint(
                condition=Q(is_test=True, provider__isnull=False, provider=TEST_PROVIDER)
                | Q(is_test=False) & (Q(provider=None) | ~Q(provider=TEST_PROVIDER)),
                name="outbox_tests_and_nothing_else_go_to_the_simulator",
            ),
        ]
        indexes = [
            models.Index(F("user"), F("id").desc(), name="outbox_log"),
            models.Index(fields=["recipient", "user", "-id"], name="outbox_by_recipient"),
            # One queue for each provider and priority.
            models.Index(
                fields=["provider", "priority", "due_at"], condition=Q(due_at__isnull=False), name="outbox_due"
            ),
            models.Index(fields=["expires_at"], condition=Q(due_at__isnull=False), name="outbox_overdue"),
            models.Index(fields=["last_attempt_at"], condition=Q(outcome="unknown"), name="outbox_unknown"),
            GinIndex(fields=["tags"], name="outbox_by_tag"),
        ]
        permissions = [
            ("resend_outbox", "Can resend failed messages"),
            ("settle_unknown", "Can say whether a message of unknown outcome was sent"),
        ]

    def __str__(self) -> str:
        return str(self.pk)

    @property
    def hold_reference(self) -> str:
        """The name of the hold that pays for the present acceptance: the first one, or the latest resend."""
        return f"{self.pk}/{self.retry_count}"

    def postings(self) -> models.QuerySet[Posting]:
        """Every line of the ledger this message has caused, oldest first."""
        references = [f"{self.pk}/{number}" for number in range(self.retry_count + 1)]
        return Posting.objects.filter(kind__in=["hold", "capture", "release"], reference__in=references).order_by("id")

    def may_be_resent(self) -> bool:
        return self.status == self.Status.FAILED and self.retry_count < self.max_retries

    @property
    def reason(self) -> Reason:
        if self.error_code is None and getattr(self, "is_held_up", False):
            return PROVIDER_PAUSED
        return Reason(self.error_code, self.error_details)

    def unknown_until(self) -> datetime | None:
        """When an unknown outcome ends as failed, if nothing settles it before."""
        handed_over = self.last_attempt_at
        return handed_over and handed_over + timedelta(hours=settings.SMS_UNKNOWN_AFTER_HOURS)

    def is_settled(self) -> bool:
        """Whether nothing more is known to come but a delivery receipt."""
        return self.status != self.Status.PENDING or self.outcome is not None

    def is_private(self) -> bool:
        """Whether the text is a one-time password, which is shown to nobody but its sender."""
        return any(tag.upper() == "OTP" for tag in self.tags)


class UnknownOutcome(Outbox):
    """The messages of unknown outcome, as the staff's list of what waits for a decision."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = "unknown outcome"


class Attempt(models.Model):
    """One handing of a message to a provider, written before a byte leaves.

    Its outcome is given once. What was open or `unknown` may still become `accepted`: by a receipt or a look-up, which
    prove it, or by the staff's word. What turns out not to have been sent stays `unknown`, with the error code
    `not_sent`: whoever said so may be wrong, and a receipt may come yet.
    """

    class Outcome(models.TextChoices):
        ACCEPTED = "accepted"
        REJECTED = "rejected"
        UNAVAILABLE = "unavailable"
        UNKNOWN = "unknown"

    outbox = models.ForeignKey(Outbox, models.PROTECT, related_name="attempts")
    number = models.PositiveIntegerField()  # 1, 2, ... of its message
    hold_reference = models.CharField(max_length=64)  # the hold that pays for it
    provider = models.CharField(max_length=64)
    started_at = models.DateTimeField(db_default=Now())
    lease_expires_at = models.DateTimeField()  # past it, without an outcome, its worker is taken for dead
    finished_at = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=11, choices=Outcome, null=True)
    provider_message_id = models.CharField(max_length=128, null=True)
    error_code = models.CharField(max_length=40, null=True)
    error_details = models.TextField(null=True)
    look_up_at = models.DateTimeField(null=True)  # when to ask the provider what became of it; null: no need to

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["outbox", "number"], name="attempt_number_once_per_message"),
            # Two workers can never have the same message in their hands.
            models.UniqueConstraint(fields=["outbox"], condition=Q(outcome=None), name="attempt_one_open_per_message"),
            models.CheckConstraint(
                condition=Q(outcome=None, finished_at=None) | Q(outcome__isnull=False, finished_at__isnull=False),
                name="attempt_finished_with_an_outcome",
            ),
        ]
        indexes = [
            models.Index(fields=["lease_expires_at"], condition=Q(outcome=None), name="attempt_open"),
            models.Index(
                fields=["provider", "provider_message_id"],
                condition=Q(provider_message_id__isnull=False),
                name="attempt_by_provider_id",
            ),
            models.Index(
                fields=["provider", "look_up_at"], condition=Q(look_up_at__isnull=False), name="attempt_to_look_up"
            ),
        ]
        ordering = ["number"]

    def __str__(self) -> str:
        return f"{self.outbox_id} #{self.number}"


class Receipt(models.Model):
    """One delivery receipt as a provider sent it, kept whatever it did. What a look-up has found is one as well."""

    class Status(models.TextChoices):
        DELIVERED = "delivered"
        UNDELIVERED = "undelivered"
        IN_TRANSIT = "in_transit"
        UNRECOGNISED = "unrecognised"

    class Effect(models.TextChoices):
        """What it did to its message."""

        APPLIED = "applied", "changed the message"
        REPEATED = "repeated", "said nothing new"
        LATE = "late", "came too late"  # the message was further already, or had been sent again
        CONTRADICTS = "contradicts", "contradicts what is known"  # changed nothing: a case for the staff
        ORPHAN = "orphan", "fits no message"  # so far: applied when the provider's id becomes known
        UNRECOGNISED = "unrecognised", "says what we cannot read"

    provider = models.CharField(max_length=64)
    outbox = models.ForeignKey(Outbox, models.PROTECT, null=True, related_name="receipts")  # null: an orphan
    provider_message_id = models.CharField(max_length=128, null=True)
    status = models.CharField(max_length=12, choices=Status)
    raw = models.JSONField()  # names and values as they came
    details = models.TextField(null=True)  # the provider's reason, for a person
    effect = models.CharField(max_length=12, choices=Effect)
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(effect="orphan", outbox=None) | ~Q(effect="orphan") & Q(outbox__isnull=False),
                name="receipt_orphan_has_no_message",
            )
        ]
        indexes = [
            models.Index(
                fields=["effect", "-id"], condition=Q(effect__in=["orphan", "contradicts"]), name="receipt_for_staff"
            ),
            models.Index(
                fields=["provider", "provider_message_id"], condition=Q(effect="orphan"), name="receipt_orphans"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.provider}: {self.status}"


class ProviderState(models.Model):
    """What all workers know of one provider together: whether it may be called now, and how soon again."""

    class Circuit(models.TextChoices):
        CLOSED = "closed", "works"  # as in electricity: it flows
        OPEN = "open", "paused"  # until `retry_at`
        HALF_OPEN = "half_open", "being tried"  # with one message
        STOPPED = "stopped", "stopped by the staff"  # until they start it again

    provider = models.CharField(max_length=64, primary_key=True)
    circuit = models.CharField(max_length=9, choices=Circuit, default=Circuit.CLOSED)
    since = models.DateTimeField(db_default=Now())  # when it stopped working, or worked again
    failures = models.PositiveIntegerField(default=0)  # points, since it last worked
    pauses = models.PositiveIntegerField(default=0)  # one after the other, since it last worked
    worked_at = models.DateTimeField(null=True)  # the last answer that made sense; to the second
    retry_at = models.DateTimeField(null=True)  # when the next message may try it; null when closed or stopped
    reason_code = models.CharField(max_length=40, null=True)
    reason = models.TextField(null=True)  # for the staff
    free_at = models.DateTimeField(null=True)  # up to when the allowed rate is used up

    class Meta:
        verbose_name = "provider"
        permissions = [("operate_provider", "Can stop and start providers")]

    def __str__(self) -> str:
        return self.provider

    @classmethod
    def paused(cls) -> set[str]:
        """The names of those that get nothing at this moment, or one message to try them."""
        return set(cls.objects.exclude(circuit=cls.Circuit.CLOSED).values_list("provider", flat=True))


class AttemptCount(models.Model):
    """How many attempts at a provider have had an outcome since the beginning: counting them would read them all."""

    provider = models.CharField(max_length=64)
    outcome = models.CharField(max_length=11, choices=Attempt.Outcome)
    attempts = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["provider", "outcome"], name="attempt_count_once")]

    def __str__(self) -> str:
        return f"{self.provider} {self.outcome}: {self.attempts}"


class Worker(models.Model):
    """A dispatcher at work; its row goes with it, or stays and ages when it was killed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(db_default=Now())
    calls = models.PositiveIntegerField(default=0)  # under way at its last heartbeat

    class Meta:
        verbose_name = "dispatcher"

    def __str__(self) -> str:
        return f"{self.host} {self.pid}"


class AuditRun(models.Model):
    """One run of the audit: what it checked and found. One without an end is under way, or was broken off."""

    started_at = models.DateTimeField(db_default=Now())
    lease_expires_at = models.DateTimeField()  # past it, without an end, whoever ran it is taken for dead
    finished_at = models.DateTimeField(null=True)
    seconds = models.FloatField(null=True)
    messages = models.PositiveBigIntegerField(null=True)
    postings = models.PositiveBigIntegerField(null=True)
    accounts = models.PositiveBigIntegerField(null=True)
    findings = models.PositiveBigIntegerField(null=True)
    named = models.TextField(blank=True)  # the first of the findings, a line each

    class Meta:
        verbose_name = "audit"

    def __str__(self) -> str:
        return f"audit of {self.started_at}"


class IdempotencyKey(models.Model):
    """A caller's `Idempotency-Key`, and the message its first request made or resent."""

    user = models.ForeignKey(User, models.CASCADE, related_name="+")
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    outbox = models.ForeignKey(Outbox, models.CASCADE, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "key"], name="idempotency_key_once_per_user")]
        indexes = [models.Index(fields=["created_at"], name="idempotency_key_age")]

    def __str__(self) -> str:
        return f"{self.user_id}: {self.key}"
