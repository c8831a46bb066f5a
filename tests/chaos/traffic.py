"""Those who use the portal: apps, which ask again in the same words until they are answered, and the staff."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import requests

from tests.chaos.processes import Portal

ANSWER_S = 4  # what an app waits for an answer
REST_S = 0.15  # between two requests of an app, at most
PATIENCE_S = 120  # for which it asks again; after that the portal is stuck
TEXTS = ("Your code is 4321.", "A long one. " * 15, "Пора платить. " * 6, "[5 €] " * 30, "😀" * 70)
PREFIXES = ("+25471100", "+25570000")


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: dict[str, Any]

    @property
    def entry(self) -> dict[str, Any] | None:
        """The outbox entry in it: the answer itself, or beside the reason why it is not paid for."""
        if self.status < 300:
            return self.body
        return self.body["outbox"] if self.status == 402 else None

    def is_final(self) -> bool:
        return self.status < 500 and self.body.get("code") != "in_flight"


@dataclass
class Request:
    """What an app asked for, and every answer it got; those that call for a repetition are in `App.troubles` only."""

    user: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    def entries(self) -> list[dict[str, Any]]:
        return [answer.entry for answer in self.answers if answer.entry is not None]


class App(threading.Thread):
    """One program with a key of its user's; several of them may have the same user."""

    def __init__(self, base: str, user: str, secret: str, number: int, seed: int, over: threading.Event) -> None:
        super().__init__(name=f"app {number} of {user}")
        self.requests: list[Request] = []
        self.troubles: Counter[str] = Counter()  # what there was in the place of an answer
        self._base, self._user, self._number, self._over = base, user, number, over
        self._key = {"Authorization": f"Bearer {secret}"}
        self._chance = random.Random(f"{seed}/{self.name}")
        self._session = requests.Session()

    def run(self) -> None:
        deeds = {self._send: 12, self._resend: 4, self._cancel: 1, self._repeat: 1}
        while not self._over.wait(self._chance.uniform(0, REST_S)):
            deed = self._chance.choices(list(deeds), list(deeds.values()))[0]
            deed()

    def unknown(self) -> set[str]:
        """The messages of unknown outcome in its user's log."""
        found: set[str] = set()
        address: str | None = f"{self._base}/api/sms/outbox?outcome=unknown&pageSize=200"
        while address:
            page = self._session.get(address, headers=self._key, timeout=ANSWER_S).json()
            found |= {entry["outboxId"] for entry in page["results"]}
            address = page["next"]
        return found

    # --- what it does -------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        chance, count = self._chance, len(self.requests)
        name = f"{self._number}-{count}"
        body: dict[str, Any] = {
            "recipientPhoneNumber": f"{chance.choice(PREFIXES)}{chance.randrange(10_000):04}",
            "message": f"{name} {chance.choice(TEXTS)}",
            "priority": chance.choice(["normal", "normal", "high"]),
        }
        later = chance.random() < 0.1
        if later:
            due = datetime.now(UTC) + timedelta(seconds=chance.uniform(3, 10))
            body["scheduleTimestamp"] = due.isoformat()
        if chance.random() < 0.05:
            body["validityMinutes"] = 1
        named = chance.random() < 0.5
        if named:
            body["messageId"] = name
        answer = self._ask("/api/sms/send", body, {} if named else {"Idempotency-Key": name})
        if later and answer and answer.status == 201 and chance.random() < 0.5:
            self._ask(f"/api/sms/outbox/{answer.body['outboxId']}/cancel")

    def _resend(self) -> None:
        """One of its user's failed messages, which another app may have chosen as well."""
        try:
            address = f"{self._base}/api/sms/outbox?status=failed&pageSize=50"
            failed = self._session.get(address, headers=self._key, timeout=ANSWER_S).json()["results"]
        except (requests.RequestException, KeyError):
            return
        if failed:
            body = {"outboxId": self._chance.choice(failed)["outboxId"]}
            self._ask("/api/sms/outbox/resend", body, {"Idempotency-Key": f"{self._number}-{len(self.requests)}"})

    def _cancel(self) -> None:
        """Its latest message, which a worker may have taken by now."""
        latest = next((entry for request in reversed(self.requests) for entry in request.entries()), None)
        if latest:
            self._ask(f"/api/sms/outbox/{latest['outboxId']}/cancel")

    def _repeat(self) -> None:
        """A request that was answered long ago, as an app does that has lost its memory."""
        kept = [request for request in self.requests if request.entries() and not request.path.endswith("/cancel")]
        if kept:
            self._until_answered(self._chance.choice(kept))

    # --- how it asks --------------------------------------------------------------------------------------------------

    def _ask(
        self, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Answer | None:
        request = Request(self._user, path, body or {}, headers or {})
        self.requests.append(request)
        return self._until_answered(request)

    def _until_answered(self, request: Request) -> Answer | None:
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            answer = self._try(request)
            if answer and answer.is_final():
                request.answers.append(answer)
                return answer
            time.sleep(self._chance.uniform(0.1, 0.5))
        return None

    def _try(self, request: Request) -> Answer | None:
        try:
            response = self._session.post(
                self._base + request.path, json=request.body, headers=self._key | request.headers, timeout=ANSWER_S
            )
            answer = Answer(response.status_code, response.headers["Content-Type"], response.json(parse_float=Decimal))
        except requests.RequestException as error:  # a body that is not JSON among them
            self.troubles[type(error).__name__] += 1
            return None
        if not answer.is_final():
            self.troubles[f"{answer.status} {answer.body.get('code')}"] += 1
        return answer


@dataclass(frozen=True)
class Payment:
    """A top-up by the staff. booked: whether the command said so; else it is either in the ledger or not."""

    user: str
    amount: Decimal
    reason: str
    booked: bool


class Staff(threading.Thread):
    """Tops up the accounts and changes the prices, by the commands, each of them once: whatever came of it."""

    def __init__(self, portal: Portal, users: list[str], seed: int, over: threading.Event) -> None:
        super().__init__(name="staff")
        self.payments: list[Payment] = []
        self._portal, self._users, self._over = portal, users, over
        self._chance = random.Random(f"{seed}/staff")

    def run(self) -> None:
        while not self._over.wait(self._chance.uniform(1, 5)):
            if self._chance.random() < 0.6:
                self.pay(self._chance.choice(self._users), Decimal(self._chance.randrange(1, 200_000)).scaleb(-4))
            else:
                self._set_a_price()

    def pay(self, user: str, amount: Decimal) -> None:
        reason = f"payment {len(self.payments)}"
        done = self._portal.manage("top_up", user, str(amount), "--reason", reason)
        self.payments.append(Payment(user, amount, reason, booked=done.returncode == 0))

    def _set_a_price(self) -> None:
        price = Decimal(self._chance.randrange(1_000, 20_000)).scaleb(-4)
        owner = self._chance.choice([[], ["--user", self._users[0]]])
        self._portal.manage("set_price", self._chance.choice(["254", "default"]), str(price), *owner, "--reason", "new")
