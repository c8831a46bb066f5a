import signal
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from outbox.dispatch import CONCURRENCY, Dispatcher


class Command(BaseCommand):
    help = "Hand due messages to providers. Run as many as you like; SIGTERM finishes what is under way."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="end when nothing is due any more")
        parser.add_argument(
            "--concurrency", type=int, default=CONCURRENCY, metavar="N", help="calls at once (%(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.SMS_PROVIDERS:
            raise CommandError("SMS_PROVIDERS is empty: there is nobody to hand messages to.")
        if not 1 <= options["concurrency"] <= 1000:
            raise CommandError("--concurrency: from 1 to 1000.")
        dispatcher = Dispatcher(concurrency=options["concurrency"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: dispatcher.stop())
        dispatcher.run(once=options["once"])
