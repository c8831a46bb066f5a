from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from smsportal.models import ApiKey, User


class Command(BaseCommand):
    help = "Make an API key for a user and print it, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", metavar="USERNAME")
        parser.add_argument("--name", required=True, metavar="NAME", help="what the key is for")
        parser.add_argument("--act-for-others", action="store_true", help="the key may send and read for any user")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']!r}.")
        if not 1 <= len(options["name"]) <= 64:
            raise CommandError("NAME has 1 to 64 characters.")
        _, secret = ApiKey.issue(user, options["name"], may_act_for_others=options["act_for_others"])
        self.stdout.write(secret)
