"""Send notices to users by e-mail.

SMTP cannot tell a lost answer from a lost letter. A worker that dies between the two sends the letter again, with the
same Message-ID, by which mail servers know a repetition; a letter is never forgotten.
"""

import logging
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.template.loader import render_to_string

from smsportal.chores import Chore
from smsportal.models import Notice
from smsportal.notices import BETWEEN_EMAILS

logger = logging.getLogger(__name__)

PLACES = 4
TIMEOUT_S = 20  # of each step of an SMTP conversation
LEASE = timedelta(minutes=3)
LONGEST_PAUSE_MINUTES = 60
NAMED = 20  # messages that a letter names one by one

SUBJECTS = {
    "balance.low": "Your balance is low",
    "sms.failed": "Messages failed",
    "webhook.disabled": "A webhook was disabled",
}


@dataclass(frozen=True)
class Letter:
    """One notice on its way to one address. last_subject: the newest message it is about when it was taken."""

    notice_id: int
    attempt: int
    message_id: str
    to: str
    subject: str
    text: str
    outbox_ids: tuple[UUID, ...]
    count: int
    last_subject: int


@transaction.atomic
def claim(under_way: list[Letter]) -> list[Letter]:
    """Take notices whose e-mail is due."""
    due = (
        Notice.objects.filter(email_due_at__lte=Now(), ended_at=None)
        .select_related("user")
        .select_for_update(skip_locked=True, of=("self",))
        .order_by("email_due_at")[: PLACES - len(under_way)]
    )
    letters = [_letter(notice) for notice in due]
    Notice.objects.filter(pk__in=[letter.notice_id for letter in letters]).update(
        email_due_at=Now() + LEASE, email_attempts=F("email_attempts") + 1
    )
    return letters


def _letter(notice: Notice) -> Letter:
    assert notice.user is not None  # noqa: S101  # only users' notices have an e-mail due
    subjects = list(notice.subjects.order_by("-pk").values_list("pk", "subject"))
    last = subjects[0][0] if subjects else 0
    return Letter(
        notice_id=notice.pk,
        attempt=notice.email_attempts + 1,
        message_id=f"<notice-{notice.pk}-{last}@{urlsplit(settings.PUBLIC_URL).hostname}>",
        to=notice.user.alert_email or notice.user.email,
        subject=SUBJECTS.get(notice.kind, "A notice") + (" (test)" if notice.user.is_test_twin else ""),
        text=notice.text,
        outbox_ids=tuple(subject for _, subject in subjects[:NAMED]),
        count=len(subjects),
        last_subject=last,
    )


def send(letter: Letter) -> str | None:
    """Hand a letter to the mail server; returns why that failed, else None. Never raises, and touches no database."""
    try:
        mail = _mail(letter)
        mail.connection = get_connection(timeout=TIMEOUT_S)
        mail.send()
    except Exception as error:  # noqa: BLE001  # whatever it is, the letter is sent later
        logger.warning("notice %s: e-mail not sent: %s", letter.notice_id, type(error).__name__)
        return type(error).__name__
    return None


def _mail(letter: Letter) -> EmailMultiAlternatives:
    context = {"letter": letter, "site": settings.PUBLIC_URL, "more": max(0, letter.count - NAMED)}
    mail = EmailMultiAlternatives(
        f"[SMS Portal] {letter.subject}",
        render_to_string("email/notice.txt", context),
        to=[letter.to],
        headers={"Message-ID": letter.message_id, "Auto-Submitted": "auto-generated"},
    )
    mail.attach_alternative(render_to_string("email/notice.html", context), "text/html")
    return mail


@transaction.atomic
def finish(letter: Letter, trouble: str | None) -> None:
    """Write what came of it: sent, and sent anew when more has come to it; or tried again later."""
    mine = Notice.objects.filter(pk=letter.notice_id, email_attempts=letter.attempt)
    if trouble:
        pause = timedelta(minutes=min(2.0 ** min(letter.attempt, 10), LONGEST_PAUSE_MINUTES))
        mine.filter(email_due_at__isnull=False).update(email_due_at=Now() + pause)
        return
    mine.update(emailed_at=Now(), email_due_at=None, email_attempts=0)
    grown = Q(subjects__pk__gt=letter.last_subject)
    Notice.objects.filter(grown, pk=letter.notice_id, ended_at=None, read_at=None).update(
        email_due_at=Now() + BETWEEN_EMAILS
    )


CHORE = Chore("e-mails", PLACES, claim, send, finish)
