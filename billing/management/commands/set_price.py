from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from billing import ledger, pricing
from billing.management.arguments import amount, instant, reason, user
from billing.models import Price, default_currency
from smsportal.instants import database_now


def prefix(text: str) -> str:
    try:
        return pricing.prefix_of(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


class Command(BaseCommand):
    help = "Set what one segment costs from a moment on; earlier prices stay as they were."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", type=prefix, metavar="PREFIX", help="such as +254, or `default` for all numbers")
        parser.add_argument("price", type=amount, metavar="PRICE", help="of one segment")
        parser.add_argument("--user", type=user, metavar="USERNAME", help="for this user only")
        parser.add_argument("--from", dest="effective_from", type=instant, metavar="ISO-TIME", help="now if left out")
        parser.add_argument("--reason", type=reason, required=True, metavar="TEXT")

    def handle(self, *args: Any, **options: Any) -> None:
        owner = options["user"]
        price = Price(
            user=owner,
            prefix=options["prefix"],
            price_per_segment=options["price"],
            currency=ledger.account_of(owner).currency if owner else default_currency(),
            effective_from=options["effective_from"] or database_now(),
            reason=options["reason"],
        )
        try:
            price.full_clean()
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        price.save()
        self.stdout.write(f"{price} per segment from {price.effective_from.isoformat()} for {owner or 'all users'}")
