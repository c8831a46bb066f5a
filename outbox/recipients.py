"""Who may be sent to: the countries that an account is open for, and not the numbers that want no messages."""

from django.db.models import Q

from billing.models import Account
from outbox import msisdn
from outbox.exceptions import RecipientNotAllowed
from outbox.models import OptOut


def refuse_not_allowed(account: Account, recipient: str) -> None:
    """recipient: E.164. Raises RecipientNotAllowed."""
    destinations = account.allowed_destinations
    if destinations and not any(_covers(destination, recipient) for destination in destinations):
        raise RecipientNotAllowed("This account may not send to this country. The operator can open it.")
    if OptOut.objects.filter(Q(user=account.user_id) | Q(user=None), number=recipient).exists():
        raise RecipientNotAllowed("This number has asked not to be sent messages.")


def _covers(destination: str, recipient: str) -> bool:
    """destination: a prefix with its +, or the two letters of a country."""
    if destination.startswith("+"):
        return recipient.startswith(destination)
    return msisdn.country(recipient) == destination
