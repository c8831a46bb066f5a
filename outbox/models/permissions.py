"""Who may send as whom, and to whom."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from outbox.look_alikes import fold
from smsportal.models import User


class SenderId(models.Model):
    """A name, or a number of the user's own, that a user wants to send as; and what the staff have decided.

    A name is somebody's with all that looks like it: what is compared is `folded`.
    """

    class State(models.TextChoices):
        REQUESTED = "requested"
        APPROVED = "approved"
        REFUSED = "refused"

    user = models.ForeignKey(User, models.CASCADE, related_name="sender_ids")
    name = models.CharField(max_length=16)  # as the user writes it
    folded = models.CharField(max_length=32, editable=False)
    state = models.CharField(max_length=9, choices=State, default=State.REQUESTED)
    is_shared = models.BooleanField(default=False)  # approved although another user has it: the staff know why
    requested_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True)
    decided_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    reason = models.CharField(max_length=200, blank=True)  # of the decision; the user reads it

    class Meta:
        verbose_name = "sender ID"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "folded"], condition=~Q(state="refused"), name="sender_id_once_per_user"
            ),
            models.UniqueConstraint(
                fields=["folded"], condition=Q(state="approved", is_shared=False), name="sender_id_of_one_user"
            ),
            models.CheckConstraint(condition=~Q(folded=""), name="sender_id_says_something"),
        ]
        indexes = [models.Index(fields=["state", "-id"], name="sender_id_queue")]
        permissions = [
            ("decide_senderid", "Can approve and refuse sender IDs"),
            ("approve_protected", "Can approve sender IDs that look like a protected name"),
        ]

    def __str__(self) -> str:
        return self.name


class ProtectedName(models.Model):
    """A name that others like to pretend to be: a bank, an authority. Only some of the staff let anybody use it."""

    name = models.CharField(max_length=64)
    folded = models.CharField(max_length=128, unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=~Q(folded=""), name="protected_name_says_something")]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        self.folded = fold(self.name)
        super().save(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came


class OptOut(models.Model):
    """A number that does not want messages: of one user, or, without one, of anybody."""

    user = models.ForeignKey(User, models.CASCADE, null=True, blank=True, related_name="opt_outs")
    number = models.CharField(max_length=16)  # E.164
    reason = models.CharField(max_length=200)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+", editable=False)

    class Meta:
        verbose_name = "opt-out"
        constraints = [
            models.UniqueConstraint(fields=["number", "user"], name="opt_out_once_per_user"),
            models.UniqueConstraint(fields=["number"], condition=Q(user=None), name="opt_out_once_for_all"),
        ]

    def __str__(self) -> str:
        return self.number
