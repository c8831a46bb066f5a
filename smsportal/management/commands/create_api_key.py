from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from smsportal.exceptions import DomainError
from smsportal.instants import parse_instant
from smsportal.models import ApiKey, User


class Command(BaseCommand):
    help = "Make an API key for a user and print it, this once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", metavar="USERNAME")
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--name", metavar="NAME", help="what the key is for")
        what.add_argument(
            "--replaces", metavar="HINT", help="rotate: the same rights as the key that begins so, which soon ends"
        )
        parser.add_argument(
            "--keep-hours", type=int, metavar="N", help="with --replaces: for how long that one works on; 24"
        )
        parser.add_argument("--test", action="store_true", help="everything works, and nothing is sent")
        parser.add_argument("--act-for-others", action="store_true", help="the key may send and read for any user")
        parser.add_argument(
            "--scope", action="append", choices=ApiKey.Scope.values, help="all, if left out; repeatable"
        )
        parser.add_argument("--expires", metavar="ISO-TIME", help="until revoked, if left out")
        parser.add_argument("--sender-id", action="append", metavar="NAME", help="any, if left out; repeatable")
        parser.add_argument("--ip-range", action="append", metavar="CIDR", help="anywhere, if left out; repeatable")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError(f"There is no user {options['username']!r}.")
        try:
            secret = self._rotate(user, options) if options["replaces"] else self._issue(user, options)
        except ValidationError as error:
            faults = [f"{name}: {' '.join(texts)}" for name, texts in error.message_dict.items()]
            raise CommandError(" ".join(faults)) from error
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(secret)

    def _issue(self, user: User, options: dict[str, Any]) -> str:
        if options["keep_hours"] is not None:
            raise CommandError("--keep-hours goes with --replaces.")
        _, secret = ApiKey.issue(
            user,
            options["name"],
            is_test=options["test"],
            scopes=options["scope"] or ApiKey.Scope.values,
            may_act_for_others=options["act_for_others"],
            expires_at=parse_instant(options["expires"]) if options["expires"] else None,
            allowed_sender_ids=options["sender_id"] or [],
            allowed_ip_ranges=options["ip_range"] or [],
        )
        return secret

    def _rotate(self, user: User, options: dict[str, Any]) -> str:
        if any(options[name] for name in ("test", "act_for_others", "scope", "expires", "sender_id", "ip_range")):
            raise CommandError("With --replaces the new key has the rights of the old one.")
        found = list(ApiKey.objects.of(user).select_related("user__live_user").filter(hint=options["replaces"]))
        if len(found) != 1:
            raise CommandError(f"The user has {len(found)} keys that begin with {options['replaces']!r}.")
        keep = ApiKey.KEPT_AFTER_ROTATION
        if options["keep_hours"] is not None:
            keep = timedelta(hours=options["keep_hours"])
        try:
            _, secret = found[0].rotate(keep)
        except DomainError as error:
            raise CommandError(error.message) from error
        return secret
