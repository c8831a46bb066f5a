"""How long the audit takes, check by check: a million messages are to take less than a minute.

On a machine that others use the time of the clock says little; the database's own processor time is shown beside it.
"""

import os
import time
from pathlib import Path

import pytest
from django.db import connection, transaction

from outbox import audit
from tests.benchmarks import history

MESSAGES = int(os.environ.get("AUDIT_MESSAGES", "1000000"))


def processor_s(pid):
    """Seconds that a process of this machine has used; 0 where nobody tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.django_db(transaction=True)
def test_the_audit_of_many_messages():
    with transaction.atomic():
        history.write(MESSAGES)
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0; ANALYZE")
    found: list[str] = []
    lines = []
    with audit.one_moment(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0; SELECT pg_backend_pid()")
        cursor.nextset()
        (pid,) = cursor.fetchone()
        began, began_cpu = time.monotonic(), processor_s(pid)
        extent = audit.extent()
        for check in audit.CHECKS:
            start, start_cpu = time.monotonic(), processor_s(pid)
            found += audit.broken([check])
            lines.append(f"{time.monotonic() - start:7.2f} s {processor_s(pid) - start_cpu:7.2f} s  {check.name}")
        seconds, processor = time.monotonic() - began, processor_s(pid) - began_cpu
    print(f"\n{extent.messages:,} messages, {extent.postings:,} postings, {extent.accounts} accounts")
    print("  clock    processor (one, of the database)", *lines, sep="\n")
    print(f"{seconds:7.2f} s {processor:7.2f} s  in all; load of the machine {os.getloadavg()[0]:.1f}")

    assert found == []
