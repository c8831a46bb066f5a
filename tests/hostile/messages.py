"""A message for the misbehaving provider, and what has become of it and its money."""

from typing import Any

from billing.models import Account, Posting
from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox

PENDING = ("pending", None, None, "held")
UNKNOWN = ("pending", "unknown", None, "held")
SENT = ("sent", None, None, "charged")
DELIVERED = ("sent", None, "delivered", "charged")


def send(account: Account, mode: str, number: int = 1) -> Any:
    """A message that the provider meets in this mode."""
    return sending.send(account.user, recipient=f"+25471100{number:04}", text=f"mode:{mode} number {number}")


def work() -> None:
    """One dispatcher after the other, until none has anything to do."""
    for _ in range(2):
        Dispatcher(concurrency=4).run(once=True)


def state(entry: Outbox) -> tuple[Any, ...]:
    """status, outcome, delivery status and charge status"""
    entry.refresh_from_db()
    return entry.status, entry.outcome, entry.delivery_status, entry.charge_status


def endings(entry: Outbox) -> list[str]:
    """How its holds have ended: capture, release."""
    postings = Posting.objects.filter(reference__startswith=f"{entry.pk}/").exclude(kind="hold")
    return list(postings.order_by("pk").values_list("kind", flat=True))
