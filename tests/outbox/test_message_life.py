"""Whatever happens to messages, in any order: they go only where the table of states lets them, and their money too."""

from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db.models import F
from django.db.models.functions import Now
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from billing import ledger
from billing.models import Price
from outbox import audit, dispatch, outcomes, receipts, sending
from outbox.exceptions import NotCancellable, NotFailed, NotPaid, NotUnknown, RetryLimitReached
from outbox.models import Attempt, Outbox
from outbox.providers.base import Accepted, DeliveryReceipt, OutcomeUnknown, Rejected, Unavailable
from tests.factories import PriceFactory, UserFactory
from tests.lives import Life, live

# Where a message may be, by status, outcome, delivery, charge and, of a pending one, whether it is due. Money is held
# in the first three, and taken in SENT, DELIVERED and UNDELIVERED.
WAITING, TAKEN, UNKNOWN = "waiting", "with a provider", "unknown"
SENT, DELIVERED, UNDELIVERED = "sent", "delivered", "undelivered"
UNSENT, FREE = "not sent", "delivered, money given back"
PLACES = {
    ("pending", None, None, "held", True): WAITING,
    ("pending", None, None, "held", False): TAKEN,
    ("pending", "unknown", None, "held", False): UNKNOWN,
    ("sent", None, None, "charged", False): SENT,
    ("sent", None, "delivered", "charged", False): DELIVERED,
    ("sent", None, "delivered", "released", False): FREE,
    ("failed", None, "undelivered", "charged", False): UNDELIVERED,
    ("failed", None, None, "released", False): UNSENT,
    ("failed", None, None, "none", False): UNSENT,
}
HELD, CHARGED = {WAITING, TAKEN, UNKNOWN}, {SENT, DELIVERED, UNDELIVERED}

# Where what a receipt says takes a message, from where it is; elsewhere it stays.
RECEIPT = {
    "delivered": dict.fromkeys([*HELD, SENT, UNDELIVERED], DELIVERED) | {UNSENT: FREE},
    "undelivered": dict.fromkeys([*HELD, SENT], UNDELIVERED),
    "in_transit": dict.fromkeys(HELD, SENT),
    "unrecognised": {},
}
ANSWER = {"accepted": SENT, "rejected": UNSENT, "unavailable": WAITING, "unknown": UNKNOWN}


@dataclass
class Message:
    """What we know of a message without asking the portal."""

    place: str
    cost: Decimal
    resends: int = 0
    since_accepted: list[str | None] = field(default_factory=list)  # answers of this acceptance; None: not yet


class Messages(Life):
    def __init__(self):
        super().__init__()
        self.account = ledger.account_of(UserFactory())
        self.model: dict[str, Message] = {}  # by message id
        self.claims: list[dispatch.Claim] = []  # also of workers that were lost, and may come back
        self.spent = Decimal(0)
        self.given = Decimal(12)
        ledger.top_up(self.account, self.given, reason="payment")

    @initialize(answers=st.tuples(*[st.sampled_from([None, *sorted(ANSWER)])] * 2))
    def begin(self, answers):
        """With a past, for most of what can happen happens only to a message that somebody has had."""
        self.price = Decimal(1)
        PriceFactory(price_per_segment=self.price)
        for said in answers:
            self.send(1)
            self.claim(1)
            if said:
                self.tell(self.claims[-1], said, with_id=True)

    # --- what people do

    @rule(segments=st.integers(1, 2))
    def send(self, segments):
        cost = segments * self.price
        message_id = f"message-{len(self.model)}"
        try:
            sending.send(self.account.user, recipient="+254711000001", text="x" * 153 * segments, message_id=message_id)
            self.model[message_id] = Message(WAITING, cost)
        except NotPaid:
            assert self.there_is() < cost
            self.model[message_id] = Message(UNSENT, cost)

    @rule(price=st.sampled_from(["0.4", "1", "1.7"]))
    def change_the_price(self, price):
        newest = Price.objects.latest("effective_from").effective_from
        self.price = Decimal(price)
        PriceFactory(price_per_segment=self.price, effective_from=newest + timedelta(seconds=1))

    @rule()
    def top_up(self):
        ledger.top_up(self.account, Decimal(2), reason="payment")
        self.given += 2

    @precondition(lambda self: self.model)
    @rule(pick=st.data(), price=st.sampled_from([None, "0.4", "1.7"]))
    def resend(self, pick, price):
        message, entry = self.one(pick, *pick.draw(st.sampled_from([(UNSENT, UNDELIVERED), ()])))
        if price:
            self.change_the_price(price)
        try:
            sending.resend(entry)
        except NotFailed:
            assert message.place not in (UNSENT, UNDELIVERED)
        except RetryLimitReached:
            assert message.resends == 3
        except NotPaid:
            assert self.there_is() < entry.segments * self.price
        else:
            assert message.place in (UNSENT, UNDELIVERED)
            message.place, message.cost = WAITING, entry.segments * self.price
            message.resends += 1
            message.since_accepted = []

    @precondition(lambda self: self.model)
    @rule(pick=st.data())
    def cancel(self, pick):
        message, entry = self.one(pick)
        if message.place == WAITING:
            sending.cancel(entry)
            message.place = UNSENT
        else:
            with pytest.raises(NotCancellable):
                sending.cancel(entry)

    @precondition(lambda self: self.model)
    @rule(pick=st.data(), sent=st.booleans())
    def settle_by_hand(self, pick, sent):
        message, entry = self.one(pick)
        if message.place == UNKNOWN:
            outcomes.settle_unknown(entry.pk, entry.attempt_count, sent=sent, details="The provider says so.")
            self.moved(message, SENT if sent else UNSENT)
        else:
            with pytest.raises(NotUnknown):
                outcomes.settle_unknown(entry.pk, entry.attempt_count, sent=sent, details="The provider says so.")

    # --- what workers and providers do

    @precondition(lambda self: self.all_in(WAITING))
    @rule(limit=st.integers(1, 3))
    def claim(self, limit):
        Outbox.objects.filter(due_at__isnull=False).update(due_at=Now() - timedelta(seconds=1))  # time passes
        claims = dispatch.claim("locmem", limit)
        waiting = [message for message in self.model.values() if message.place == WAITING]
        assert len(claims) == min(limit, len(waiting))
        for claimed in claims:
            message = self.message_of(claimed)
            assert message.place == WAITING
            # Never a second time for the same money, unless nothing was sent.
            assert set(message.since_accepted) <= {"unavailable"}
            message.place = TAKEN
            message.since_accepted.append(None)
        self.claims += claims

    @precondition(lambda self: self.claims)
    @rule(pick=st.data(), said=st.sampled_from(sorted(ANSWER)), with_id=st.booleans())
    def answer(self, pick, said, with_id):
        """In time, or by a worker that was taken for dead: such a one may only add the id, and what is known by it."""
        self.tell(pick.draw(st.sampled_from(self.claims)), said, with_id)

    def tell(self, claimed, said, with_id):
        attempt = Attempt.objects.get(pk=claimed.attempt_id)
        is_open = Attempt.objects.filter(pk=attempt.pk, outcome=None).exists()
        provider_id = f"id-{attempt.pk}" if with_id else None
        results: dict[str, outcomes.Result] = {
            "accepted": Accepted(provider_id),
            "rejected": Rejected("no", provider_message_id=provider_id),
            "unavailable": Unavailable("busy"),
            "unknown": OutcomeUnknown("?", provider_message_id=provider_id),
        }
        result = results[said]
        message = self.message_of(claimed)

        assert outcomes.settle([(attempt.pk, result)]) == ({attempt.pk} if is_open else set())

        if is_open:
            assert message.place == TAKEN
            message.since_accepted[-1] = said
            self.moved(message, ANSWER[said])
        if result.provider_message_id:
            self.follow(message, claimed, RECEIPT.values())

    @precondition(lambda self: self.claims)
    @rule(
        pick=st.data(),
        statuses=st.lists(st.sampled_from(sorted(RECEIPT)), min_size=1, max_size=3),
        named_by=st.sampled_from(["reference", "id", "both", "reference and a strange id"]),
    )
    def receive(self, pick, statuses, named_by):
        claimed = pick.draw(st.sampled_from(self.claims))
        reference = None if named_by == "id" else claimed.message.reference
        provider_id = {"id": f"id-{claimed.attempt_id}", "both": f"id-{claimed.attempt_id}"}.get(named_by)
        if named_by == "reference and a strange id":
            provider_id = "strange"
        message = self.message_of(claimed)
        for status in statuses:
            self.hear(message, claimed, DeliveryReceipt(status, reference, provider_id))

    def hear(self, message, claimed, receipt):
        only_one = Attempt.objects.filter(outbox_id=claimed.message.reference).count() == 1
        named_by_us = receipt.provider_message_id is None
        before, moves = message.place, RECEIPT[receipt.status]

        effect = receipts.apply("locmem", receipt).effect

        self.follow(message, claimed, [moves] if named_by_us else RECEIPT.values())
        if only_one and message.since_accepted and named_by_us:
            assert message.place == moves.get(before, before)
            assert (effect == "applied") == (before in moves)

    # --- what the clock does

    @precondition(lambda self: self.all_in(TAKEN))
    @rule()
    def lose_the_workers(self):
        Attempt.objects.filter(outcome=None).update(lease_expires_at=Now() - timedelta(seconds=1))
        outcomes.end_leases()
        for message in self.all_in(TAKEN):
            message.since_accepted[-1] = "unknown"
            self.moved(message, UNKNOWN)

    @precondition(lambda self: self.all_in(WAITING))
    @rule()
    def expire(self):
        Outbox.objects.filter(due_at__isnull=False).update(expires_at=Now() - timedelta(seconds=1))
        assert outcomes.expire() == len(self.all_in(WAITING))
        for message in self.all_in(WAITING):
            message.place = UNSENT

    @precondition(lambda self: self.all_in(UNKNOWN))
    @rule()
    def end_the_doubt(self):
        Outbox.objects.filter(outcome="unknown").update(last_attempt_at=F("last_attempt_at") - timedelta(hours=73))
        assert outcomes.end_unknown() == len(self.all_in(UNKNOWN))
        for message in self.all_in(UNKNOWN):
            message.place = UNSENT

    # --- the model

    def one(self, pick, *places):
        """Any message; one in these places, if there is one."""
        there = [key for key, message in self.model.items() if message.place in places]
        message_id = pick.draw(st.sampled_from(there or list(self.model)))
        return self.model[message_id], Outbox.objects.get(message_id=message_id)

    def message_of(self, claimed):
        return self.model[Outbox.objects.get(pk=claimed.message.reference).message_id]

    def all_in(self, place):
        return [message for message in self.model.values() if message.place == place]

    def there_is(self):
        return self.given - self.spent - sum(one.cost for one in self.model.values() if one.place in HELD)

    def moved(self, message, place):
        if place in CHARGED and message.place in HELD:
            self.spent += message.cost
        message.place = place

    def follow(self, message, claimed, moves):
        """Let the message be where the portal has it, when one or more of these moves lead there or none was made.

        Which of many receipts, by which of an attempt's names, counts: tests of their own say.
        """
        there = self.place_of(Outbox.objects.get(pk=claimed.message.reference))
        reached = {message.place}
        for _ in range(3):
            reached |= {move[place] for move in moves for place in reached if place in move}
        assert there in reached, (message.place, there)
        if there in CHARGED and message.since_accepted and message.place in HELD:
            message.since_accepted[-1] = "accepted"
        self.moved(message, there)

    @staticmethod
    def place_of(entry):
        state = (entry.status, entry.outcome, entry.delivery_status, entry.charge_status, entry.due_at is not None)
        return PLACES[state]

    # --- what always holds

    @invariant()
    def every_message_is_where_the_model_has_it(self):
        entries = Outbox.objects.order_by("created_at")
        assert {entry.message_id: self.place_of(entry) for entry in entries} == {
            message_id: message.place for message_id, message in self.model.items()
        }
        for entry in entries:
            message = self.model[entry.message_id]
            assert (entry.total_cost, entry.retry_count) == (message.cost, message.resends)

    @invariant()
    def the_money_is_exact(self):
        self.account.refresh_from_db()
        assert self.account.balance == self.given - self.spent
        assert self.account.available() == self.there_is() >= 0

    @invariant()
    def nothing_is_in_two_hands(self):
        open_ones = list(Attempt.objects.filter(outcome=None).values_list("outbox__message_id", flat=True))
        assert sorted(open_ones) == sorted(key for key, message in self.model.items() if message.place == TAKEN)

    @invariant()
    def the_audit_is_content(self):
        assert list(audit.broken()) == []


def test_any_life_of_messages_keeps_to_the_table_of_states(db, provider):
    live(Messages, lives=20, steps=20)
