"""A provider without a network: the recipient's last digits choose what happens. For the demo, and to try an app."""

import heapq
import itertools
import threading
import time
from collections.abc import Iterable

from outbox.providers.base import (
    Accepted,
    DeliveryReceipt,
    Inquiry,
    Message,
    NeverReceived,
    OutcomeUnknown,
    ReceiptStatus,
    Rejected,
    Unavailable,
)
from outbox.providers.base import Provider as BaseProvider

RECEIPT_AFTER_S = 2.0
SLOW_S = 5.0
LOOK_UP_AFTER_S = 15.0

# Shown on the compose page and, the same, in the README.
BEHAVIOURS = [
    ("01", "rejected: the message fails and its money is given back"),
    ("02", "busy the first time, accepted when it is tried again some seconds later"),
    ("03", "taken, but the answer is lost: unknown, until a receipt settles it after 10 seconds"),
    ("04", "taken, but the answer is lost and no receipt ever comes: stays unknown"),
    ("05", f"accepted after {SLOW_S:g} seconds"),
    ("06", "accepted, then reported as undelivered: the message fails and stays charged"),
    ("07", "accepted, and no receipt ever comes"),
    ("08", "taken, but the answer is lost and no receipt comes: unknown, until the provider is asked after 15 seconds"),
    ("09", "lost before the provider had it: unknown, until it is asked after 15 seconds; fails, money given back"),
    ("any other", "accepted, and reported as delivered 2 seconds later"),
]


class Provider(BaseProvider):
    """Answers by BEHAVIOURS. Its receipts live in this process only: a restart loses them, as networks do."""

    look_up_after_s = never_received_after_s = LOOK_UP_AFTER_S

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._receipts: list[tuple[float, int, DeliveryReceipt]] = []  # a heap by the moment they are due

    def send(self, message: Message) -> Accepted:
        provider_message_id = f"sim-{message.reference}-{message.attempt}"
        match message.recipient[-2:]:
            case "01":
                raise Rejected("The simulator rejects numbers that end in 01.")
            case "02" if message.attempt == 1:
                raise Unavailable("The simulator is busy the first time.", code="provider_busy", retry_after=2)
            case "03":
                self._report("delivered", message, provider_message_id, after_s=10)
                raise OutcomeUnknown("The simulator took the message and lost the answer.")
            case "04" | "08":
                raise OutcomeUnknown("The simulator took the message and lost the answer.")
            case "09":
                raise OutcomeUnknown("The connection broke. The simulator may have taken the message.")
            case "05":
                time.sleep(SLOW_S)
                self._report("delivered", message, provider_message_id)
            case "06":
                self._report("undelivered", message, provider_message_id)
            case "07":
                pass
            case _:
                self._report("delivered", message, provider_message_id)
        return Accepted(provider_message_id)

    def look_up(self, inquiry: Inquiry) -> DeliveryReceipt | NeverReceived | None:
        """Numbers that end in 08 and 09 can be asked about; of others nothing is known."""
        match inquiry.recipient[-2:]:
            case "08":
                return DeliveryReceipt("delivered", raw={"simulated": "look-up"})
            case "09":
                return NeverReceived()
        return None

    def collect_receipts(self) -> Iterable[DeliveryReceipt]:
        with self._lock:
            due = []
            while self._receipts and self._receipts[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._receipts)[2])
        return due

    def _report(
        self, status: ReceiptStatus, message: Message, provider_message_id: str, after_s: float = RECEIPT_AFTER_S
    ) -> None:
        details = "The simulator reports numbers that end in 06 as undelivered." if status == "undelivered" else None
        receipt = DeliveryReceipt(status, message.reference, provider_message_id, details, raw={"simulated": status})
        with self._lock:
            heapq.heappush(self._receipts, (time.monotonic() + after_s, next(self._order), receipt))
