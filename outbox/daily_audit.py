"""Audit once a day, by one of all the workers and beside its work; keep what came of it, and tell the staff.

Its row has a lease: when whoever runs it dies, another begins anew. An audit by hand is kept and told alike.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Self

import psycopg
from django.db import Error as DatabaseError
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from billing.audit import Check
from outbox import audit
from outbox.models import AuditRun
from smsportal import notices

logger = logging.getLogger(__name__)

EVERY = timedelta(days=1)
LEASE = timedelta(hours=2)
# How often a worker looks whether it is time, and how long after its start: what is due by then is taken first.
LOOK_S = 60.0
NAMED = 5  # findings that the notice tells
END_S = 10.0
KIND, ABOUT = "audit", "books"


def begin() -> AuditRun:
    """A run from now on, that no worker has to make today."""
    return AuditRun.objects.create(lease_expires_at=Now() + LEASE)


@transaction.atomic
def claim() -> AuditRun | None:
    """Begin the run of the day; None when it was made or is under way, or another worker is asking at this moment."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('audit', 0))")
        if cursor.fetchone() != (True,):
            return None
    made = Q(finished_at__gt=Now() - EVERY) | Q(finished_at=None, lease_expires_at__gt=Now())
    return None if AuditRun.objects.filter(made).exists() else begin()


def carry_out(run: AuditRun, checks: Iterable[Check] = audit.CHECKS) -> Iterator[str]:
    """Yield a sentence for each broken row; after the last, keep what came of it and tell the staff."""
    began, found, named = time.monotonic(), 0, []
    with audit.one_moment():
        extent = audit.extent()
        for sentence in audit.broken(checks):
            found += 1
            if found <= NAMED:
                named.append(sentence)
            yield sentence
    run.messages, run.postings, run.accounts = extent
    run.seconds, run.findings, run.named = time.monotonic() - began, found, "\n".join(named)
    _keep(run)


@transaction.atomic
def _keep(run: AuditRun) -> None:
    run.finished_at = Now()
    run.save()
    run.refresh_from_db()
    if run.findings:
        text = _notice(run)
        notice = notices.tell_staff(KIND, ABOUT, text)
        notice.text = text  # of the latest run, in a notice that was there already too
        notice.save(update_fields=["text"])
    else:
        notices.end_for_staff(KIND, ABOUT)


def _notice(run: AuditRun) -> str:
    return (
        f"The audit found {run.findings} broken; `manage.py audit` names them all, and is content when they are"
        f" mended. The first: {'; '.join(run.named.splitlines())}."
    )


class BrokenOff(Exception):
    """The worker ends; the audit of the day is for another one."""


class DailyAudit:
    """That of one worker, in a thread and on a connection of its own, so that nobody waits for it."""

    def __init__(self) -> None:
        self._look_at = time.monotonic() + LOOK_S
        self._thread: threading.Thread | None = None
        self._session: psycopg.Connection | None = None  # while it may be in use
        self._ending = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Break off what is under way, also in the middle of a long statement."""
        self._ending.set()
        deadline = time.monotonic() + END_S
        while self._thread and self._thread.is_alive() and time.monotonic() < deadline:
            if session := self._session:
                with contextlib.suppress(psycopg.Error):
                    session.cancel_safe(timeout=END_S)
            self._thread.join(0.1)  # it may not have been in a statement: then once more

    def look(self) -> None:
        """Begin today's audit if nobody has."""
        if time.monotonic() < self._look_at or (self._thread and self._thread.is_alive()):
            return
        self._look_at = time.monotonic() + LOOK_S
        if (run := claim()) is not None:
            self._thread = threading.Thread(target=self._carry_out, args=[run], name="audit", daemon=True)
            self._thread.start()

    def _carry_out(self, run: AuditRun) -> None:
        try:
            connection.ensure_connection()
            self._session = connection.connection
            found = sum(1 for _ in carry_out(run, self._checks()))
            logger.info("audit: %d broken", found)
        except (DatabaseError, BrokenOff):
            if not self._ending.is_set():
                logger.exception("the audit was broken off; it is made anew when its lease is over")
            else:
                with contextlib.suppress(DatabaseError):
                    run.delete()
        except Exception:
            logger.exception("the audit is broken itself")
        finally:
            self._session = None
            connection.close()

    def _checks(self) -> Iterator[Check]:
        for check in audit.CHECKS:
            if self._ending.is_set():
                raise BrokenOff
            yield check
