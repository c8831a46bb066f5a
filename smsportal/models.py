"""Who may come in, people and their apps' keys, and what they are told: notices and webhooks."""

import base64
import hashlib
import re
import secrets
import uuid
from datetime import datetime, timedelta
from typing import ClassVar, Self

import uuid_utils.compat
from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone


def uuid7() -> uuid.UUID:
    """A time-ordered id (RFC 9562, version 7): as quick to insert as a counter, and it tells no counts."""
    return uuid_utils.compat.uuid7()


class User(AbstractUser):
    """A person, or a business with its apps, who sends messages and pays for them."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    default_sender_id = models.CharField(
        max_length=16,
        blank=True,
        help_text="Used when a message names no sender ID; a number of the user's own is allowed.",
    )
    max_retries = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Resends allowed for each message; empty for SMS_MAX_RETRIES."
    )
    failure_alerts = models.BooleanField(default=True, help_text="Tell the user of failed messages.")
    email_alerts = models.BooleanField(default=False, help_text="Send notices by e-mail too.")
    alert_email = models.EmailField(blank=True, help_text="Where to; empty for the user's own address.")

    class Meta(AbstractUser.Meta):
        pass

    def retries_allowed(self) -> int:
        """Resends of a message: the user's own number, up to the operator's cap."""
        cap: int = settings.SMS_MAX_RETRIES
        return cap if self.max_retries is None else min(self.max_retries, cap)


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self) -> Self:
        """Keys that let somebody in at this moment."""
        return self.filter(
            Q(expires_at=None) | Q(expires_at__gt=Now()),
            Q(revoked_at=None) | Q(revoked_at__gt=Now()),
            user__is_active=True,
        )


class ApiKey(models.Model):
    """A secret that lets an app act as its user. Only a SHA-256 of it is kept: 256 random bits need no slow hash."""

    PREFIX: ClassVar = "sms_"

    user = models.ForeignKey(User, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=64)
    digest = models.CharField(max_length=64, unique=True, editable=False)  # SHA-256, hexadecimal
    hint = models.CharField(max_length=12, editable=False)  # the key's first characters, to tell keys apart
    may_act_for_others = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, editable=False)  # to the minute

    objects = ApiKeyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    @classmethod
    def issue(
        cls, user: User, name: str, *, may_act_for_others: bool = False, secret: str | None = None
    ) -> tuple["ApiKey", str]:
        """Make a key; returns it with the secret, which nobody can read again."""
        secret = secret or cls.PREFIX + secrets.token_urlsafe(32)
        key = cls.objects.create(
            user=user,
            name=name,
            digest=cls.digest_of(secret),
            hint=secret[:12],
            may_act_for_others=may_act_for_others,
        )
        return key, secret

    @classmethod
    def looks_like_one(cls, text: str) -> bool:
        return re.fullmatch(rf"{cls.PREFIX}[A-Za-z0-9_-]{{43}}", text) is not None

    @staticmethod
    def digest_of(secret: str) -> str:
        return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()

    def note_use(self) -> None:
        """Remember that the key was used, at most once a minute, so that a busy app writes no row per call."""
        now: datetime = timezone.now()
        if self.last_used_at is None or now - self.last_used_at > timedelta(minutes=1):
            # Only from what was read: of many calls at once, one writes.
            type(self).objects.filter(pk=self.pk, last_used_at=self.last_used_at).update(last_used_at=now)


class WebhookEndpoint(models.Model):
    """An address of a user's own that is told of events."""

    class Event(models.TextChoices):
        SENT = "sms.sent"
        FAILED = "sms.failed"
        DELIVERED = "sms.delivered"
        BALANCE_LOW = "balance.low"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="webhook_endpoints")
    url = models.CharField(max_length=2000)
    events = ArrayField(models.CharField(max_length=16, choices=Event))
    secret = models.CharField(max_length=64, editable=False)  # signs what is sent, so it is kept as it is
    created_at = models.DateTimeField(db_default=Now())
    disabled_at = models.DateTimeField(null=True)
    disabled_reason = models.CharField(max_length=200, null=True)

    def __str__(self) -> str:
        return self.url

    @staticmethod
    def new_secret() -> str:
        """As the Standard Webhooks specification has it: a prefix and 24 to 64 random bytes in base64."""
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


class WebhookDelivery(models.Model):
    """One event for one endpoint: waiting to be told (`due_at`), told (`delivered_at`), or given up."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)  # the receiver knows a repetition by it
    endpoint = models.ForeignKey(WebhookEndpoint, models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=16, choices=[*WebhookEndpoint.Event.choices, ("test", "test")])
    body = models.TextField()  # JSON, signed and sent to the byte as it is here
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(null=True, db_default=Now())  # null: nothing more to do
    attempts = models.PositiveSmallIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True)
    last_attempt_at = models.DateTimeField(null=True)
    last_status = models.PositiveSmallIntegerField(null=True)  # HTTP
    last_error = models.CharField(max_length=200, null=True)

    class Meta:
        verbose_name_plural = "webhook deliveries"
        indexes = [
            models.Index(fields=["due_at"], condition=Q(due_at__isnull=False), name="webhook_due"),
            models.Index(fields=["endpoint", "-id"], name="webhook_log"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.endpoint}"


class Notice(models.Model):
    """Something that a person should know, written with the fact that caused it and ended when that is over.

    Of one kind and about one thing there is one at a time, however often its cause is seen.
    """

    class Level(models.TextChoices):
        WARNING = "warning"
        CRITICAL = "critical"

    user = models.ForeignKey(User, models.CASCADE, null=True, related_name="notices")  # null: for the staff
    kind = models.CharField(max_length=40)
    about = models.CharField(max_length=128)  # which provider, which account, ...
    level = models.CharField(max_length=8, choices=Level)
    text = models.TextField()  # sentences for a person: what happened, and what to do
    created_at = models.DateTimeField(db_default=Now())
    read_at = models.DateTimeField(null=True)
    email_due_at = models.DateTimeField(null=True)  # null: none is to be sent, or it was
    email_attempts = models.PositiveSmallIntegerField(default=0)  # since the last one that went out
    emailed_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "about"], condition=Q(ended_at=None, user=None), name="notice_once_for_staff"
            ),
            models.UniqueConstraint(
                fields=["user", "kind", "about"], condition=Q(ended_at=None), name="notice_once_per_user"
            ),
        ]
        indexes = [
            models.Index(fields=["-created_at"], name="notice_log"),
            models.Index(fields=["user", "-id"], name="notice_of_user"),
            models.Index(fields=["email_due_at"], condition=Q(email_due_at__isnull=False), name="notice_to_email"),
        ]

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}"


class NoticeSubject(models.Model):
    """One message that a notice is about."""

    notice = models.ForeignKey(Notice, models.CASCADE, related_name="subjects")
    subject = models.UUIDField()  # its outbox id

    class Meta:
        constraints = [models.UniqueConstraint(fields=["notice", "subject"], name="notice_subject_once")]
        indexes = [models.Index(fields=["subject"], name="notice_subject")]

    def __str__(self) -> str:
        return str(self.subject)
