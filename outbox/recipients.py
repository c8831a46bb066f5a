"""Who may be sent to: the countries that an account is open for, and not the numbers that want no messages."""

from django.db import connection

from billing import ledger
from billing.models import Account
from outbox import msisdn
from outbox.exceptions import RecipientNotAllowed


def refuse_not_allowed(account: Account, recipient: str) -> None:
    """recipient: E.164. Of a test twin's account, what its user may do holds. Raises RecipientNotAllowed."""
    live = ledger.account_of(account.user.live) if account.user.is_test_twin else account
    destinations = live.allowed_destinations
    if destinations and not any(_covers(destination, recipient) for destination in destinations):
        raise RecipientNotAllowed("This account may not send to this country. The operator can open it.")
    if _has_opted_out(live, recipient):
        raise RecipientNotAllowed("This number has asked not to be sent messages.")


def _has_opted_out(account: Account, recipient: str) -> bool:
    with connection.cursor() as cursor:  # it is asked for every message, and the ORM takes five times as long
        cursor.execute(
            "SELECT 1 FROM outbox_optout WHERE number = %s AND (user_id = %s OR user_id IS NULL) LIMIT 1",
            [recipient, account.user_id],
        )
        return cursor.fetchone() is not None


def _covers(destination: str, recipient: str) -> bool:
    """destination: a prefix with its +, or the two letters of a country."""
    if destination.startswith("+"):
        return recipient.startswith(destination)
    return msisdn.country(recipient) == destination
