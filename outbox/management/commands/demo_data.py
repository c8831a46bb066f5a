import json
import sys
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from billing import ledger
from billing.models import Price
from outbox import sender_ids
from smsportal.instants import database_now
from smsportal.models import ApiKey, User

SENDER_ID = "MYBRAND"
OPENING_BALANCE = Decimal(1000)


class Command(BaseCommand):
    help = "What `demo` fills in: users, a key, a sender ID, prices and money. Reads the log-ins as JSON; repeatable."

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        log_ins = json.load(sys.stdin)
        admin = self._user(log_ins["adminUsername"], log_ins["adminPassword"], is_staff=True, is_superuser=True)
        user = self._user(log_ins["username"], log_ins["password"], default_sender_id=SENDER_ID)
        if not sender_ids.is_allowed(SENDER_ID, user):
            wanted = sender_ids.request(user, SENDER_ID)
            sender_ids.approve(wanted, by=admin, reason="The demo's sender ID", shared=True)
        if not ApiKey.objects.filter(digest=ApiKey.digest_of(log_ins["apiKey"])).exists():
            ApiKey.issue(user, "demo", secret=log_ins["apiKey"])
        account = ledger.account_of(user)
        if not account.postings.exists():
            ledger.top_up(account, OPENING_BALANCE, reason="The demo's opening balance", by=admin)
        for prefix, price in {"": "2.5", "254": "0.8"}.items():
            if not Price.objects.filter(user=None, prefix=prefix, currency=account.currency).exists():
                Price.objects.create(
                    prefix=prefix,
                    price_per_segment=Decimal(price),
                    currency=account.currency,
                    effective_from=database_now(),
                    reason="The demo's price list",
                    created_by=admin,
                )

    def _user(self, username: str, password: str, **fields: Any) -> User:
        user = User.objects.filter(username=username).first()
        if user is None:
            return User.objects.create_user(username, password=password, **fields)
        if not user.check_password(password):
            # Perhaps a real user of a real database: not for a demo to take over.
            raise CommandError(f"The database has a user {username!r} with another password than the demo's.")
        return user
