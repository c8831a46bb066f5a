"""Ask providers what became of the messages whose outcome is unknown, where they can be asked.

Each such attempt has a due time, moved on as a worker takes it: when that one dies in the middle, another asks later.
The pauses grow with the attempt's age. What a provider answers counts as its delivery receipt would; a message that it
never received fails, and its money is given back.
"""

import contextlib
import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import F

from outbox import outcomes, receipts
from outbox.exceptions import NotUnknown
from outbox.models import Attempt, Outbox, ProviderState
from outbox.providers import get_provider, provider_names
from outbox.providers.base import DeliveryReceipt, Inquiry, NeverReceived, ProviderError
from smsportal.chores import Chore
from smsportal.instants import database_now

logger = logging.getLogger(__name__)

PLACES = 8  # look-ups at once in one process
PLACES_OF_ONE = 4  # of them at one provider
LONGEST_PAUSE = timedelta(hours=1)
NOT_SENT_DETAILS = "The provider says that it never received the message. Your money was given back."

Finding = DeliveryReceipt | NeverReceived | None


@dataclass(frozen=True)
class LookUp:
    """One attempt to ask about. age_s: since it was handed over, by the database's clock."""

    provider: str
    outbox_id: UUID
    age_s: float
    inquiry: Inquiry


def claim(under_way: list[LookUp]) -> list[LookUp]:
    """Take what is due at each provider that can be asked and is not paused, as far as there are places."""
    paused = ProviderState.paused()
    claimed: list[LookUp] = []
    for provider in provider_names():
        asked = sum(look_up.provider == provider for look_up in under_way)
        free = min(PLACES_OF_ONE - asked, PLACES - len(under_way) - len(claimed))
        if get_provider(provider).look_up_after_s is not None and provider not in paused and free > 0:
            claimed += claim_at(provider, free)
    return claimed


@transaction.atomic
def claim_at(provider: str, limit: int) -> list[LookUp]:
    """Take up to `limit` attempts that are due to be asked about."""
    now = database_now()
    first = timedelta(seconds=get_provider(provider).look_up_after_s or outcomes.FIRST_LOOK_UP_S)
    due = (
        Attempt.objects.filter(provider=provider, look_up_at__lte=now)
        .filter(outbox__outcome=Outbox.Outcome.UNKNOWN, number=F("outbox__attempt_count"))
        .select_related("outbox")
        .select_for_update(skip_locked=True, of=("self",))
        .order_by("look_up_at")[:limit]
    )
    claimed = []
    for attempt in due:
        age = now - attempt.started_at
        attempt.look_up_at = now + min(max(age, first), LONGEST_PAUSE)
        attempt.save(update_fields=["look_up_at"])
        claimed.append(LookUp(provider, attempt.outbox_id, age.total_seconds(), _inquiry(attempt)))
    return claimed


def _inquiry(attempt: Attempt) -> Inquiry:
    return Inquiry(
        reference=str(attempt.outbox_id),
        recipient=attempt.outbox.recipient,
        provider_message_id=attempt.provider_message_id,
        attempt=attempt.number,
    )


def ask(look_up: LookUp) -> Finding:
    """What the provider knows; None for nothing that helps. Never raises, and touches no database."""
    try:
        return get_provider(look_up.provider).look_up(look_up.inquiry)
    except ProviderError as error:
        logger.info("provider %s: no look-up of outbox %s: %s", look_up.provider, look_up.outbox_id, error.error_code)
    except BaseException:
        logger.exception("provider %s broke looking up outbox %s", look_up.provider, look_up.outbox_id)
    return None


def apply(look_up: LookUp, finding: Finding) -> None:
    """Settle the message by what was found, unless something else has settled it in the meantime."""
    match finding:
        case DeliveryReceipt() if finding.reference in (None, look_up.inquiry.reference):
            receipts.apply(look_up.provider, replace(finding, reference=look_up.inquiry.reference))
        case NeverReceived() if look_up.age_s >= get_provider(look_up.provider).never_received_after_s:
            with contextlib.suppress(NotUnknown):
                outcomes.settle_unknown(
                    look_up.outbox_id, look_up.inquiry.attempt, sent=False, details=NOT_SENT_DETAILS
                )


CHORE = Chore("look-ups", PLACES, claim, ask, apply)
