"""What a provider is: one class that hands a message over and says, from evidence, what became of it."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from django.http import HttpRequest

# What an answer says is a stranger's: cut to what the database holds, wherever it comes in.
LONGEST_ID = 128  # characters; a longer one cannot be stored, and a part of it would name something else
LONGEST_CODE = 40
LONGEST_DETAILS = 500
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15 * 60.0  # of what a provider asks for, in Retry-After or otherwise
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL takes neither NUL nor half a character


def as_text(value: Any, longest: int) -> str | None:
    """A text or number made fit to store, cut at `longest`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return UNSTORABLE.sub("", str(value))[:longest]


def as_id(value: Any) -> str | None:
    """A text or number as an id; None when it is empty or too long to be kept whole."""
    text = as_text(value, LONGEST_ID + 1)
    return text if text and len(text) <= LONGEST_ID else None


@dataclass(frozen=True)
class Message:
    """What a provider needs to know of an outbox entry."""

    reference: str  # our outbox id: goes along, and comes back in the delivery receipt
    recipient: str  # E.164
    text: str
    sender_id: str  # "" when there is none: then the provider's own default holds
    encoding: str  # GSM-7 or UCS-2
    segments: int
    attempt: int = 1  # 1 for the first time a provider gets it


@dataclass(frozen=True)
class Accepted:
    """The provider took the message for delivery, and calls it by this id (None when it gives none)."""

    provider_message_id: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "provider_message_id", as_id(self.provider_message_id))


class ProviderError(Exception):
    """Why a message was not accepted. code: a stable word of ours; the text is a sentence for a person."""

    code: ClassVar[str] = "provider_error"

    def __init__(self, details: str, *, code: str | None = None, provider_message_id: str | None = None) -> None:
        super().__init__(details)
        self.details = as_text(details, LONGEST_DETAILS) or ""
        self.error_code = as_text(code, LONGEST_CODE) or self.code
        self.provider_message_id = as_id(provider_message_id)


class Rejected(ProviderError):
    """The provider refused it for good: it will not be sent."""

    code = "provider_rejected"


class Unavailable(ProviderError):
    """Provably nothing was taken: it may be tried again after `retry_after` seconds (None: we choose).

    refuses_us: it would be the same with any other message, until a person has mended something: our credentials, our
    credit with the provider, the address.
    """

    code = "provider_unavailable"

    def __init__(
        self, details: str, *, code: str | None = None, retry_after: float | None = None, refuses_us: bool = False
    ) -> None:
        super().__init__(details, code=code)
        self.refuses_us = refuses_us
        usable = retry_after is not None and math.isfinite(retry_after)
        self.retry_after = max(SHORTEST_PAUSE_S, min(float(retry_after or 0), LONGEST_PAUSE_S)) if usable else None


class OutcomeUnknown(ProviderError):
    """It may have been taken. Nobody sends it again until a receipt, a look-up or a person settles it."""

    code = "outcome_unknown"


ReceiptStatus = Literal["delivered", "undelivered", "in_transit", "unrecognised"]


@dataclass(frozen=True)
class DeliveryReceipt:
    """What the network says of a message after it was accepted."""

    status: ReceiptStatus
    reference: str | None = None  # our outbox id
    provider_message_id: str | None = None
    details: str | None = None  # the provider's reason, for a person
    raw: dict[str, Any] = field(default_factory=dict)  # names and values as they came


@dataclass(frozen=True)
class Inquiry:
    """Which message a provider is asked about, after it did not say whether it took it."""

    reference: str  # our outbox id
    recipient: str  # E.164
    provider_message_id: str | None  # mostly unknown: the answer that held it was lost
    attempt: int  # as in Message


@dataclass(frozen=True)
class NeverReceived:
    """The provider says that it does not have the message."""


class ReceiptRefused(Exception):
    """The callback is not the provider's, or says nothing a receipt can be made of."""

    def __init__(self, details: str, *, authentic: bool) -> None:
        super().__init__(details)
        self.authentic = authentic


class Provider:
    """The contract. One instance serves all threads of a process; a call must not touch the database.

    name: as in SMS_PROVIDERS. timeout_s: an upper bound of one send() and of one look_up(), connection and answer
    included. look_up_after_s: how long to wait for a receipt before look_up() is asked; None: it cannot be asked.
    never_received_after_s: how old an attempt is before the provider is believed when it does not know the message:
    what it has just taken it may not find yet.
    """

    timeout_s: float = 10.0
    look_up_after_s: float | None = None
    never_received_after_s: float = 600.0

    def __init__(self, name: str) -> None:
        self.name = name

    def send(self, message: Message) -> Accepted:
        """Hand one message over. Raises Rejected, Unavailable or OutcomeUnknown."""
        raise NotImplementedError

    def look_up(self, inquiry: Inquiry) -> DeliveryReceipt | NeverReceived | None:
        """What the provider knows of a message; None for nothing that helps. Raises ProviderError."""
        raise NotImplementedError

    def collect_receipts(self) -> Iterable[DeliveryReceipt]:
        """Receipts that arrived inside this process since the last call, for providers that keep a line open."""
        return ()

    def read_receipt(self, request: HttpRequest, token: str) -> DeliveryReceipt:
        """The receipt in a callback, once it is proved to be the provider's. Raises ReceiptRefused."""
        raise ReceiptRefused("This provider sends no callbacks.", authentic=False)
