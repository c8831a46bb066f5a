"""Tell people what they should know: once, for as long as it holds."""

import logging

from django.db import transaction
from django.db.models.functions import Now

from smsportal.models import Notice

logger = logging.getLogger(__name__)


@transaction.atomic
def tell_staff(kind: str, about: str, text: str, level: Notice.Level = Notice.Level.CRITICAL) -> Notice:
    """Give the staff a notice, unless there is one already; in the caller's transaction, with what it is about."""
    notice, new = Notice.objects.get_or_create(
        user=None, kind=kind, about=about, ended_at=None, defaults={"text": text, "level": level}
    )
    if new:
        log = logger.critical if level == Notice.Level.CRITICAL else logger.warning
        transaction.on_commit(lambda: log("notice to the staff: %s", text))
    return notice


def end_for_staff(kind: str, about: str) -> None:
    """Withdraw the notice, if there is one: its cause is over. The next time it is a new one."""
    Notice.objects.filter(user=None, kind=kind, about=about, ended_at=None).update(ended_at=Now())
