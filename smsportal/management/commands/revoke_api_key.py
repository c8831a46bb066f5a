from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from smsportal.models import ApiKey, User


class Command(BaseCommand):
    help = "Revoke an API key: no request with it is let in from now on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", metavar="USERNAME")
        parser.add_argument("hint", metavar="HINT", help="how the key begins, as lists show it")

    def handle(self, *args: Any, **options: Any) -> None:
        hint = options["hint"].rstrip("…")
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']!r}.")
        found = list(ApiKey.objects.of(user).select_related("user__live_user").filter(hint=hint))
        if len(found) != 1:
            raise CommandError(f"The user has {len(found)} keys that begin with {hint!r}.")
        again = "" if found[0].revoke() else " It was revoked before."
        self.stdout.write(f"The key {found[0]} is revoked.{again}")
