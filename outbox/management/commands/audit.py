import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connection, transaction

from outbox import audit


class Command(BaseCommand):
    help = "Prove that ledger, balances, holds, outbox and attempts agree. Names each broken row; exit status 1 if any."

    def handle(self, *args: Any, **options: Any) -> None:
        # One moment for all checks, so that traffic meanwhile is no finding.
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                cursor.execute("SET LOCAL statement_timeout = 0")
            found = 0
            for sentence in audit.broken():
                found += 1
                self.stdout.write(sentence)
        if found:
            self.stderr.write(f"{found} broken.")
            sys.exit(1)
        self.stdout.write("The books are right.")
