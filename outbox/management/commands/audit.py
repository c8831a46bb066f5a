import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from tqdm import tqdm

from outbox import audit, daily_audit


class Command(BaseCommand):
    help = "Prove that ledger, balances, holds, outbox and attempts agree. Names each broken row; exit status 1 if any."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--no-progress", action="store_true", help="no progress bar, on a terminal either")

    def handle(self, *args: Any, **options: Any) -> None:
        run = daily_audit.begin()
        hidden = options["no_progress"] or not self.stderr.isatty()
        with tqdm(audit.CHECKS, "audit", file=self.stderr, unit="check", leave=False, disable=hidden) as checks:
            for sentence in daily_audit.carry_out(run, checks):
                with tqdm.external_write_mode(file=self.stderr):
                    self.stdout.write(sentence)
        self.stdout.write(
            f"Checked {run.messages:,} messages, {run.postings:,} postings and {run.accounts:,} accounts"
            f" in {run.seconds:.1f} s: {f'{run.findings:,} broken' if run.findings else 'the books are right'}."
        )
        if run.findings:
            sys.exit(1)
