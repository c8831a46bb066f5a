"""Who may come in: people and their apps' keys."""

import hashlib
import re
import secrets
import uuid
from datetime import datetime, timedelta
from typing import ClassVar, Self

import uuid_utils.compat
from django.contrib.auth.models import AbstractUser
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

    class Meta(AbstractUser.Meta):
        pass


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
        indexes = [models.Index(fields=["-created_at"], name="notice_log")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.about}"
