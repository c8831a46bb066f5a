from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from billing.management.arguments import reason, user
from outbox import sender_ids
from smsportal.exceptions import DomainError


class Command(BaseCommand):
    help = "Let a user send as a name, or as a number of the user's own, without having to ask for it first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", type=user, metavar="USERNAME")
        parser.add_argument("name", metavar="SENDER-ID")
        parser.add_argument("--reason", type=reason, required=True, metavar="TEXT")
        parser.add_argument("--shared", action="store_true", help="although another user has one that looks like it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with transaction.atomic():
                wanted = sender_ids.waiting(options["user"], options["name"])
                wanted = wanted or sender_ids.request(options["user"], options["name"])
                sender_ids.approve(wanted, by=None, reason=options["reason"], shared=options["shared"])
        except ValidationError as error:
            raise CommandError(error.messages[0]) from error
        except DomainError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{options['user']} may send as {wanted.name}.")
