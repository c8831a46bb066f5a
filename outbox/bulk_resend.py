"""Many failed messages sent again at once, by staff: first what it would do, then each message for itself."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from billing.models import Account
from outbox import sending
from outbox.models import Outbox
from smsportal.exceptions import DomainError

MAX_MESSAGES = 200  # of one action: what a person can look through, and a request can do


@dataclass(frozen=True)
class Line:
    """One message of a preview: what it would cost now, or why it may not be sent again."""

    entry: Outbox
    quote: sending.Quote | None
    refusal: str = ""


@dataclass
class Total:
    """What all messages of one account would cost, in its currency."""

    account: Account
    messages: int = 0
    cost: Decimal = Decimal(0)

    def is_covered(self) -> bool:
        return self.cost <= self.account.available()


def preview(entries: Iterable[Outbox]) -> list[Line]:
    """Price a resend of each; changes nothing."""
    return [_line(entry) for entry in entries]


def _line(entry: Outbox) -> Line:
    try:
        return Line(entry, sending.quote_resend(entry))
    except DomainError as error:
        return Line(entry, None, error.message)


def totals(lines: Iterable[Line]) -> list[Total]:
    by_account: dict[int, Total] = {}
    for quote in (line.quote for line in lines if line.quote):
        total = by_account.setdefault(quote.account.pk, Total(quote.account))
        total.messages += 1
        total.cost += quote.total_cost
    return list(by_account.values())


def find(ids: Iterable[UUID]) -> list[Outbox]:
    """The messages of these ids, oldest first, with their users."""
    return list(Outbox.objects.filter(pk__in=ids).select_related("user").order_by("pk"))
