"""Tell people what they should know, once, for as long as it holds: on the pages, and users by e-mail if they like."""

import logging
from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import DateTimeField, Max, Q, Value
from django.db.models.functions import Greatest, Now

from smsportal.chores import forget
from smsportal.models import Notice, NoticeSubject, User

logger = logging.getLogger(__name__)

GROUPED_FOR = timedelta(minutes=5)  # messages that fail one after the other are one e-mail
KEPT_FOR = timedelta(days=90)
BETWEEN_EMAILS = timedelta(hours=1)  # of one notice that keeps growing


@transaction.atomic
def tell_staff(kind: str, about: str, text: str, level: Notice.Level = Notice.Level.CRITICAL) -> Notice:
    """Give the staff a notice, unless there is one already; in the caller's transaction, with what it is about."""
    notice, new = Notice.objects.get_or_create(
        user=None, kind=kind, about=about, ended_at=None, defaults={"text": text, "level": level}
    )
    if new:
        log = logger.critical if level == Notice.Level.CRITICAL else logger.warning
        transaction.on_commit(
            lambda: log("notice to the staff: %s: %s", kind, about)
        )  # not its text, which quotes providers
    return notice


def end_for_staff(kind: str, about: str) -> None:
    """Withdraw the notice, if there is one: its cause is over. The next time it is a new one."""
    Notice.objects.filter(user=None, kind=kind, about=about, ended_at=None).update(ended_at=Now())


@transaction.atomic(savepoint=False)
def tell_user(user_id: UUID, kind: str, about: str, text: str, level: Notice.Level = Notice.Level.WARNING) -> bool:
    """Give a user a notice, unless there is one already; returns whether it is new. An e-mail follows at once."""
    notice, new = _open(user_id, kind, about, text, level)
    if new:
        _email_in(notice, timedelta(0))
    return new


def is_told(user_id: UUID, kind: str, about: str) -> bool:
    """Whether the user has the notice already."""
    return Notice.objects.filter(user_id=user_id, kind=kind, about=about, ended_at=None).exists()


@transaction.atomic(savepoint=False)
def tell_of_messages(user_id: UUID, kind: str, text: str, outbox_ids: Iterable[UUID]) -> None:
    """Add messages to the user's notice of this kind, which stays open until it is read; an e-mail follows later."""
    notice, _ = _open(user_id, kind, "", text, Notice.Level.WARNING)
    NoticeSubject.objects.bulk_create(
        [NoticeSubject(notice=notice, subject=outbox_id) for outbox_id in outbox_ids], ignore_conflicts=True
    )
    _email_in(notice, GROUPED_FOR)


def _open(user_id: UUID, kind: str, about: str, text: str, level: Notice.Level) -> tuple[Notice, bool]:
    """The user's open notice, locked, so that it cannot end while something is added; and whether it is new."""
    while True:
        notice, new = Notice.objects.get_or_create(
            user_id=user_id, kind=kind, about=about, ended_at=None, defaults={"text": text, "level": level}
        )
        if new or Notice.objects.select_for_update().filter(pk=notice.pk, ended_at=None).exists():
            return notice, new


def _email_in(notice: Notice, delay: timedelta) -> None:
    """Let an e-mail be sent, unless one is to be sent already or the user wants none.

    However often something ends and begins anew, of one kind there is one e-mail in BETWEEN_EMAILS.
    """
    wants_it = User.objects.filter(~Q(alert_email="", email=""), notices=notice, email_alerts=True)
    if not wants_it.exists():
        return
    alike = Notice.objects.filter(user=notice.user_id, kind=notice.kind, about=notice.about)
    last = alike.aggregate(last=Max("emailed_at"))["last"]
    due_at = Now() + delay if last is None else Greatest(Now() + delay, Value(last + BETWEEN_EMAILS, DateTimeField()))
    Notice.objects.filter(pk=notice.pk, email_due_at=None).update(email_due_at=due_at)


@transaction.atomic(savepoint=False)
def withdraw_messages(kind: str, outbox_ids: Iterable[UUID]) -> None:
    """Take messages out of notices nobody has read yet; a notice that is about none any more ends."""
    subjects = NoticeSubject.objects.filter(subject__in=list(outbox_ids), notice__kind=kind, notice__ended_at=None)
    found = set(subjects.values_list("notice_id", flat=True))
    if found:
        locked = [notice.pk for notice in Notice.objects.select_for_update().filter(pk__in=found).order_by("pk")]
        subjects.delete()
        Notice.objects.filter(pk__in=locked, subjects=None).update(ended_at=Now(), email_due_at=None)


def end_for_user(user_id: UUID, kind: str, about: str) -> None:
    """Withdraw the notice, if there is one: its cause is over."""
    Notice.objects.filter(user_id=user_id, kind=kind, about=about, ended_at=None).update(
        ended_at=Now(), email_due_at=None
    )


def purge() -> int:
    """Forget some notices that have been over for KEPT_FOR; returns how many."""
    return forget(Notice.objects.filter(ended_at__lt=Now() - KEPT_FOR).order_by("ended_at"))


def read(notice: Notice) -> None:
    """The user has seen it. A notice about messages ends with that: what fails later is a new one."""
    seen = Notice.objects.filter(pk=notice.pk)
    seen.filter(read_at=None).update(read_at=Now(), email_due_at=None)
    seen.filter(ended_at=None, pk__in=NoticeSubject.objects.values("notice_id")).update(ended_at=Now())
