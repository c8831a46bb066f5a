from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DataError, transaction

from billing import ledger
from billing.management.arguments import amount, reason, user


class Command(BaseCommand):
    help = "Add paid money to a user's account and print the new balance."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", type=user, metavar="USERNAME")
        parser.add_argument("amount", type=amount, metavar="AMOUNT", help="in the account's currency, more than 0")
        parser.add_argument("--reason", type=reason, required=True, metavar="TEXT")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["amount"] <= 0:
            raise CommandError("AMOUNT must be more than 0.")
        account = ledger.account_of(options["user"])
        try:
            with transaction.atomic():
                posting = ledger.top_up(account, options["amount"], reason=options["reason"])
        except DataError as error:
            raise CommandError("The balance would have more than 14 digits.") from error
        self.stdout.write(f"{posting.balance_after.normalize():f} {account.currency}")
