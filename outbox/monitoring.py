"""What machines ask about the portal: whether it is ready (`/readyz`), and its figures for Prometheus (`/metrics`).

The figures come from the database, so that whichever process answers, of however many, they are those of the whole
portal. All of them are read from indexes or from tables of a few rows.
"""

import functools
import hmac
import logging
import math
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import F
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from billing import audit
from outbox import workers
from outbox.models import AttemptCount, AuditRun, Outbox, ProviderState
from smsportal.api.problems import RETRY_SECONDS
from smsportal.models import Notice

logger = logging.getLogger(__name__)


class MigrationsMissing(Exception):
    """The database is older than the code."""


# --- ready ------------------------------------------------------------------------------------------------------------


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Whether this process can serve requests: 200, or 503 with the reason. No dispatcher at work is no reason: what is
    accepted meanwhile waits. But it is told.
    """
    try:
        _require_migrations()
        return JsonResponse({"ready": True, "dispatchers": workers.alive().count()})
    except MigrationsMissing:
        return _not_ready("migrations are missing: run manage.py migrate")
    except DatabaseError as error:
        logger.error("not ready: database: %s", type(error.__cause__ or error).__name__)
        return _not_ready("the database does not answer")


def _not_ready(reason: str) -> HttpResponse:
    return JsonResponse({"ready": False, "reason": reason}, status=503, headers={"Retry-After": RETRY_SECONDS})


@functools.cache
def _require_migrations() -> None:
    """Raise MigrationsMissing unless all of this code's are applied. Once they are, they stay: not asked again."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise MigrationsMissing


# --- figures ----------------------------------------------------------------------------------------------------------


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """The figures, as text for Prometheus. With METRICS_TOKEN set they are for those who send it as a bearer token."""
    given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
    if settings.METRICS_TOKEN and not hmac.compare_digest(given, f"Bearer {settings.METRICS_TOKEN}".encode()):
        return HttpResponse("METRICS_TOKEN is needed.\n", "text/plain", 401, headers={"WWW-Authenticate": "Bearer"})
    try:
        figures = generate_latest(registry)
    except DatabaseError as error:
        logger.error("no metrics: database: %s", type(error.__cause__ or error).__name__)
        return HttpResponse(
            "The database does not answer.\n", "text/plain", 503, headers={"Retry-After": RETRY_SECONDS}
        )
    return HttpResponse(figures, CONTENT_TYPE_PLAIN_0_0_4)


class Figures(Collector):
    """Asks the database each time, and keeps nothing."""

    def describe(self) -> list[Metric]:
        return []  # else registering it would ask the database

    def collect(self) -> Iterator[Metric]:
        yield from _queue()
        yield from _attempts()
        yield from _unknown()
        yield from _providers()
        yield from _dispatchers()
        yield _ledger_drift()
        yield from _audit()
        yield _notices()


registry = CollectorRegistry(auto_describe=False)
registry.register(Figures())


def _queue() -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "smsportal_queue_messages",
        "Messages that wait: due ones, and those that are due later (scheduled, or to be tried again).",
        labels=["provider", "priority", "state"],
    )
    for provider, priority, due, later in _rows("""
        SELECT COALESCE(provider, ''), priority, COUNT(*) FILTER (WHERE due_at <= statement_timestamp()),
               COUNT(*) FILTER (WHERE due_at > statement_timestamp())
        FROM outbox_outbox WHERE due_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
    """):
        name = Outbox.Priority(priority).name.lower()
        depth.add_metric([provider, name, "due"], due)
        depth.add_metric([provider, name, "later"], later)
    yield depth
    oldest = GaugeMetricFamily(
        "smsportal_queue_oldest_due_seconds", "For how long the oldest due message has been due.", labels=["provider"]
    )
    for provider, age in _rows("""
        SELECT COALESCE(provider, ''), EXTRACT(EPOCH FROM statement_timestamp() - MIN(due_at))
        FROM outbox_outbox WHERE due_at <= statement_timestamp() GROUP BY 1 ORDER BY 1
    """):
        oldest.add_metric([provider], float(age))
    yield oldest


def _attempts() -> Iterator[Metric]:
    total = CounterMetricFamily(
        "smsportal_attempts", "Attempts that have ended, by what they came to.", labels=["provider", "outcome"]
    )
    for kept in AttemptCount.objects.order_by("provider", "outcome"):
        total.add_metric([kept.provider, kept.outcome], kept.attempts)
    yield total
    ((open_,),) = _rows("SELECT COUNT(*) FROM outbox_attempt WHERE outcome IS NULL")
    yield GaugeMetricFamily("smsportal_attempts_open", "Attempts under way, or of a worker that died.", value=open_)


def _unknown() -> Iterator[Metric]:
    ((count, age),) = _rows("""
        SELECT COUNT(*), EXTRACT(EPOCH FROM statement_timestamp() - MIN(last_attempt_at))
        FROM outbox_outbox WHERE outcome = 'unknown' AND NOT is_test
    """)
    yield GaugeMetricFamily("smsportal_unknown_messages", "Messages of unknown outcome.", value=count)
    yield GaugeMetricFamily(
        "smsportal_unknown_oldest_seconds", "Age of the oldest unknown outcome; 0 for none.", value=float(age or 0)
    )


def _providers() -> Iterator[Metric]:
    works = GaugeMetricFamily(
        "smsportal_provider_works",
        "1 when a provider gets messages, 0 when it is paused, tried again, or stopped by the staff.",
        labels=["provider"],
    )
    for state in ProviderState.objects.order_by("provider"):
        works.add_metric([state.provider], state.circuit == ProviderState.Circuit.CLOSED)
    yield works


def _dispatchers() -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "smsportal_dispatcher_heartbeat_age_seconds",
        "Since a dispatcher last said that it lives; one that was killed is shown for a day.",
        labels=["host", "pid"],
    )
    calls = GaugeMetricFamily(
        "smsportal_dispatcher_calls", "Calls to providers under way at its last heartbeat.", labels=["host", "pid"]
    )
    for host, pid, seconds, under_way in _rows("""
        SELECT DISTINCT ON (host, pid) host, pid, EXTRACT(EPOCH FROM statement_timestamp() - beat_at), calls
        FROM outbox_worker ORDER BY host, pid, beat_at DESC
    """):
        age.add_metric([host, str(pid)], float(seconds))
        calls.add_metric([host, str(pid)], under_way)
    yield age
    yield calls
    yield GaugeMetricFamily("smsportal_dispatchers", "Dispatchers at work.", value=workers.alive().count())


def _ledger_drift() -> Metric:
    gauge = GaugeMetricFamily(
        "smsportal_ledger_drift",
        "By how much balances and held amounts differ from what the ledger's last postings say. Always 0.",
        labels=["currency"],
    )
    for currency, amount in audit.drift():
        gauge.add_metric([currency], float(amount))
    return gauge


def _audit() -> Iterator[Metric]:
    last = AuditRun.objects.filter(finished_at__isnull=False).annotate(age=Now() - F("finished_at"))
    run = last.order_by("finished_at").last()
    yield GaugeMetricFamily(
        "smsportal_audit_age_seconds",
        "Since an audit last came to its end; infinite when none ever did.",
        value=run.age.total_seconds() if run else math.inf,
    )
    yield GaugeMetricFamily(
        "smsportal_audit_findings", "What it found broken. Always 0.", value=(run and run.findings) or 0
    )


def _notices() -> Metric:
    notices = GaugeMetricFamily(
        "smsportal_notices", "Open notices to the staff, as the admin shows them.", labels=["level"]
    )
    levels = list(Notice.objects.filter(user=None, ended_at=None).values_list("level", flat=True))
    for level in Notice.Level:
        notices.add_metric([level.value], levels.count(level))
    return notices


def _rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
