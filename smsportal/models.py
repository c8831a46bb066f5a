"""Who may come in, people and their apps' keys, and what they are told: notices and webhooks."""

import base64
import hashlib
import re
import secrets
import uuid
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, ClassVar, Self

import uuid_utils.compat
from django.conf import settings
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from smsportal.exceptions import DomainError
from smsportal.instants import database_now


def uuid7() -> uuid.UUID:
    """A time-ordered id (RFC 9562, version 7): as quick to insert as a counter, and it tells no counts."""
    return uuid_utils.compat.uuid7()


class User(AbstractUser):
    """A person, or a business with its apps, who sends messages and pays for them.

    A test twin is what a user's test keys act as: a user of its own, with its own outbox and play money, so that
    nothing it does can mix with what is real. What the user may and pays holds for it too. Nobody logs in as one.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    default_sender_id = models.CharField(
        max_length=16,
        blank=True,
        help_text="Used when a message names no sender ID. It has to be approved for the user, or nothing is sent.",
    )
    max_retries = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Resends allowed for each message; empty for SMS_MAX_RETRIES."
    )
    failure_alerts = models.BooleanField(default=True, help_text="Tell the user of failed messages.")
    email_alerts = models.BooleanField(default=False, help_text="Send notices by e-mail too.")
    alert_email = models.EmailField(blank=True, help_text="Where to; empty for the user's own address.")
    # Of a test twin: the user it stands for.
    live_user = models.OneToOneField("self", models.PROTECT, null=True, editable=False, related_name="twin")
    rate_limit_per_minute = models.PositiveIntegerField(
        null=True, blank=True, help_text="Messages a minute; empty for SMS_RATE_LIMIT_PER_MINUTE, 0 for no limit."
    )

    class Meta(AbstractUser.Meta):
        constraints = [
            models.CheckConstraint(
                condition=Q(live_user=None)
                | Q(password__startswith=UNUSABLE_PASSWORD_PREFIX, is_staff=False, is_superuser=False),
                name="user_test_twin_cannot_log_in",
            )
        ]

    @property
    def is_test_twin(self) -> bool:
        return self.live_user_id is not None

    @property
    def live(self) -> "User":
        """Whose prices, sender IDs and limits hold: the user's own, or those of the one this test twin stands for."""
        return self.live_user or self

    @property
    def live_id(self) -> uuid.UUID:
        return self.live_user_id or self.pk

    def test_twin(self) -> "User":
        """The user's test twin, made at first need."""
        name = f"{self.username[:143]} (test)"  # no name that somebody can be given has a space in it
        if User.objects.filter(username=name).exclude(live_user=self).exists():  # of one who had our name before
            name = f"{self.pk} (test)"
        defaults = {"username": name, "password": UNUSABLE_PASSWORD_PREFIX}
        return User.objects.get_or_create(live_user=self, defaults=defaults)[0]

    def retries_allowed(self) -> int:
        """Resends of a message: the user's own number, up to the operator's cap."""
        cap: int = settings.SMS_MAX_RETRIES
        own = self.live.max_retries if self.max_retries is None else self.max_retries
        return cap if own is None else min(own, cap)


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self) -> Self:
        """Keys that let somebody in at this moment."""
        return self.unended().filter(Q(user__live_user=None) | Q(user__live_user__is_active=True), user__is_active=True)

    def unended(self) -> Self:
        """Keys that neither the clock nor anybody has ended yet."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=Now()), Q(revoked_at=None) | Q(revoked_at__gt=Now()))

    def of(self, user: User) -> Self:
        """A user's keys, those of the test twin too."""
        return self.filter(Q(user=user) | Q(user__live_user=user))


class KeyHasEnded(DomainError):
    """The key was revoked, has expired, or was replaced before."""

    code = "key_has_ended"


def validate_ip_range(text: str) -> None:
    """An address, or a range of them in CIDR notation."""
    try:
        ip_network(text)
    except ValueError as error:
        raise ValidationError(
            "Give ranges as 192.0.2.0/24 or 2001:db8::/32, or single addresses.", code="invalid_ip_range"
        ) from error


def all_scopes() -> list[str]:
    return list(ApiKey.Scope.values)


class ApiKey(models.Model):
    """A secret that lets an app act as its user, within the key's rights.

    Only a SHA-256 of it is kept: 256 random bits need no slow hash. It is found by that in an index, which is as good
    as a comparison in constant time: how long the search takes tells at most how a digest begins, and from that nobody
    finds a key.
    """

    class Scope(models.TextChoices):
        SEND = "send", "send: send, quote, resend and cancel messages"
        READ = "read", "read: read the log, alerts and webhooks"
        BILLING = "billing", "billing: read balance, statement and prices"
        SETTINGS = "settings", "settings: change alerts and webhooks"

    PREFIX: ClassVar = "sms_"
    TEST_PREFIX: ClassVar = "sms_test_"
    HINT_LENGTH: ClassVar = 8  # characters after the prefix
    KEPT_AFTER_ROTATION: ClassVar = timedelta(hours=24)
    LONGEST_KEPT: ClassVar = timedelta(days=30)

    user = models.ForeignKey(User, models.CASCADE, related_name="api_keys")  # of a test key: the test twin
    name = models.CharField(max_length=64)
    digest = models.CharField(max_length=64, unique=True, editable=False)  # SHA-256, hexadecimal
    hint = models.CharField(max_length=20, editable=False)  # the key's first characters, to tell keys apart
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope), default=all_scopes)
    may_act_for_others = models.BooleanField(default=False)
    allowed_sender_ids = ArrayField(models.CharField(max_length=16), default=list, blank=True)  # empty: all the user's
    allowed_ip_ranges = ArrayField(  # empty: from anywhere
        models.CharField(max_length=43, validators=[validate_ip_range]), default=list, blank=True
    )
    replaces = models.OneToOneField("self", models.SET_NULL, null=True, editable=False, related_name="replacement")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, editable=False)  # to the minute

    objects = ApiKeyQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.name} ({self.hint}…)"

    def clean(self) -> None:
        if self.expires_at is not None and self.expires_at <= timezone.now():
            raise ValidationError({"expires_at": "The key would have expired already."})

    @classmethod
    def issue(
        cls, user: User, name: str, *, is_test: bool = False, secret: str | None = None, **rights: Any
    ) -> tuple["ApiKey", str]:
        """Make a key; returns it with the secret, which nobody can read again.

        rights: fields of the key; those left out allow all, but not to act for others.
        Raises ValidationError naming the fields at fault.
        """
        if user.is_test_twin:
            raise ValidationError({"user": "Make test keys for the user that this test twin stands for."})
        prefix = cls.TEST_PREFIX if is_test else cls.PREFIX
        secret = secret or prefix + secrets.token_urlsafe(32)
        key = cls(name=name, digest=cls.digest_of(secret), hint=secret[: len(prefix) + cls.HINT_LENGTH], **rights)
        key.clean_fields(exclude={"user", "replaces"})
        key.clean()
        if is_test and key.may_act_for_others:
            raise ValidationError({"may_act_for_others": "A test key acts for its own user only."})
        with transaction.atomic():
            key.user = user.test_twin() if is_test else user
            key.save(force_insert=True)
        return key, secret

    def rotate(self, keep: timedelta = KEPT_AFTER_ROTATION) -> tuple["ApiKey", str]:
        """Make a key with the same rights in this one's place, which itself goes on working for `keep` and no longer.

        The new one lasts as long as this one was made to. keep: up to LONGEST_KEPT, else ValueError.
        Raises KeyHasEnded: a key is replaced once.
        """
        if not timedelta(0) <= keep <= self.LONGEST_KEPT:
            raise ValueError(f"A replaced key works on for at most {self.LONGEST_KEPT.days} days.")
        now = database_now()
        with transaction.atomic():
            old = ApiKey.objects.unended().select_for_update().filter(pk=self.pk).first()
            if old is None or ApiKey.objects.filter(replaces=old).exists():  # asked once it is locked
                raise KeyHasEnded(f"The key {self} has ended or was replaced before: make a new one.")
            new, secret = ApiKey.issue(
                self.user.live,
                old.name,
                is_test=self.is_test,
                scopes=old.scopes,
                may_act_for_others=old.may_act_for_others,
                allowed_sender_ids=old.allowed_sender_ids,
                allowed_ip_ranges=old.allowed_ip_ranges,
                expires_at=old.expires_at and now + (old.expires_at - old.created_at),
                replaces=old,
            )
            old.expires_at = min(old.expires_at or now + keep, now + keep)
            old.save(update_fields=["expires_at"])
        return new, secret

    def revoke(self) -> bool:
        """End the key: no request that begins from now on is let in. Returns whether it had not been revoked before."""
        unrevoked = ApiKey.objects.filter(Q(revoked_at=None) | Q(revoked_at__gt=Now()), pk=self.pk)
        return bool(unrevoked.update(revoked_at=Now()))

    @property
    def is_test(self) -> bool:
        return self.user.is_test_twin

    def state(self) -> str:
        """One word for people: works, revoked, expired, or inactive as its user is."""
        now = timezone.now()
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "works" if self.user.is_active and self.user.live.is_active else "inactive"

    def may_send_as(self, sender_id: str | None) -> bool:
        return not self.allowed_sender_ids or sender_id in self.allowed_sender_ids

    def may_come_from(self, address: IPv4Address | IPv6Address | None) -> bool:
        """Whether the key may be used from an address; None: nobody knows from which."""
        if not self.allowed_ip_ranges:
            return True
        return address is not None and any(address in ip_network(allowed) for allowed in self.allowed_ip_ranges)

    @classmethod
    def looks_like_one(cls, text: str) -> bool:
        return re.fullmatch(rf"({cls.PREFIX}|{cls.TEST_PREFIX})[A-Za-z0-9_-]{{43}}", text) is not None

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
            models.Index(fields=["created_at"], condition=Q(due_at=None), name="webhook_age"),
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
            models.Index(fields=["ended_at"], condition=Q(ended_at__isnull=False), name="notice_over"),
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


class Bucket(models.Model):
    """How far a limit is used up; see smsportal/rates.py, its only writer.

    The table is unlogged: a place costs no write to the disk, and after a crash of PostgreSQL all limits start anew.
    """

    key = models.UUIDField(primary_key=True)
    used_until = models.DateTimeField()  # the moment at which all places are free again
    step = models.DurationField()  # in which one place becomes free
    tolerance = models.DurationField()  # how far ahead of the clock `used_until` may be and leave a place

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.key)
