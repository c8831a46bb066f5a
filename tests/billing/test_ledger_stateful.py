"""Whatever is done to the ledger, in any order: it agrees with a plain model of it, line by line."""

from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from billing import audit, ledger
from billing.exceptions import AlreadySettled, InsufficientBalance, NoSuchHold
from billing.models import Posting
from tests.factories import UserFactory
from tests.lives import Life, live

CREDIT = [Decimal(0), Decimal(5)]
amounts = st.decimals("0.0001", "20", places=4)
accounts = st.integers(0, len(CREDIT) - 1)


@dataclass
class Account:
    """What an account should be: its money, and all lines it ever got."""

    credit: Decimal
    balance: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    lines: list[tuple[str, Decimal, Decimal, Decimal]] = field(default_factory=list)

    def may_spend(self, amount):
        return self.balance - self.held + self.credit >= amount

    def write(self, kind, amount):
        self.balance += {"top_up": amount, "adjustment": amount, "capture": -amount}.get(kind, 0)
        self.held += {"hold": amount, "capture": -amount, "release": -amount}.get(kind, 0)
        self.lines.append((kind, amount, self.balance, self.held))


@dataclass
class Hold:
    account: int
    amount: Decimal
    settled: bool = False


class Ledger(Life):
    def __init__(self):
        super().__init__()
        self.accounts = []
        for credit in CREDIT:
            account = ledger.account_of(UserFactory())
            account.credit_limit = credit
            account.save()
            self.accounts.append(account)
        self.model = [Account(credit) for credit in CREDIT]
        self.holds: dict[str, Hold] = {}
        for number in range(len(CREDIT)):
            self.top_up(number, Decimal(30))

    @rule(number=accounts, amount=amounts)
    def top_up(self, number, amount):
        ledger.top_up(self.accounts[number], amount, reason="payment")
        self.model[number].write("top_up", amount)

    @rule(number=accounts, amount=st.one_of(amounts, amounts.map(Decimal.copy_negate)))
    def adjust(self, number, amount):
        if self.model[number].may_spend(-amount) or amount > 0:
            ledger.adjust(self.accounts[number], amount, reason="correction")
            self.model[number].write("adjustment", amount)
        else:
            with pytest.raises(InsufficientBalance):
                ledger.adjust(self.accounts[number], amount, reason="correction")

    @rule(number=accounts, amount=amounts)
    def hold(self, number, amount):
        reference = f"hold-{len(self.holds)}"
        if self.model[number].may_spend(amount):
            ledger.hold(self.accounts[number], amount, reference)
            self.holds[reference] = Hold(number, amount)
            self.model[number].write("hold", amount)
        else:
            with pytest.raises(InsufficientBalance):
                ledger.hold(self.accounts[number], amount, reference)

    @rule(number=accounts)
    def hold_all_there_is_and_not_a_bit_more(self, number):
        account = self.model[number]
        there_is = account.balance - account.held + account.credit
        with pytest.raises(InsufficientBalance):
            ledger.hold(self.accounts[number], there_is + Decimal("0.0001"), "too much")
        if there_is:
            self.hold(number, there_is)

    @precondition(lambda self: self.holds)
    @rule(number=accounts, choice=st.data())
    def hold_twice_for_the_same(self, number, choice):
        reference = choice.draw(st.sampled_from(sorted(self.holds)))
        self.top_up(number, Decimal(1))  # for want of money it would be refused anyhow
        self.adjust(number, Decimal(20))
        with pytest.raises(IntegrityError), transaction.atomic():
            ledger.hold(self.accounts[number], Decimal("0.0001"), reference)

    @precondition(lambda self: self.holds)
    @rule(choice=st.data())
    def settle_one(self, choice):
        reference = choice.draw(st.sampled_from(sorted(self.holds)))
        act, kind = choice.draw(st.sampled_from([(ledger.capture, "capture"), (ledger.release, "release")]))
        if self.holds[reference].settled:
            with pytest.raises(AlreadySettled):
                act(reference)
        else:
            act(reference)
            self._settled(reference, kind)

    @precondition(lambda self: self.holds)
    @rule(choice=st.data())
    def settle_many(self, choice):
        """All of them, or, when one of them has ended or never was, none."""
        known = [reference for reference, hold in self.holds.items() if not hold.settled or choice.draw(st.booleans())]
        chosen = choice.draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        captured = {reference for reference in chosen if choice.draw(st.booleans())}
        released = [reference for reference in chosen if reference not in captured]
        if choice.draw(st.integers(0, 9)) == 9:
            with pytest.raises(NoSuchHold):
                ledger.settle(captured, [*released, "nobody's"])
        elif any(self.holds[reference].settled for reference in chosen):
            with pytest.raises(AlreadySettled):
                ledger.settle(captured, released)
        else:
            ledger.settle(captured, released)
            for reference in self.holds:  # in the order they were made
                if reference in chosen:
                    self._settled(reference, "capture" if reference in captured else "release")

    def _settled(self, reference, kind):
        self.holds[reference].settled = True
        self.model[self.holds[reference].account].write(kind, self.holds[reference].amount)

    @rule(number=accounts)
    def nothing_is_no_money(self, number):
        for act in (ledger.top_up, ledger.adjust):
            with pytest.raises(ValueError, match="0"):
                act(self.accounts[number], Decimal(0), reason="nothing")

    @rule(change=st.sampled_from(["UPDATE billing_posting SET amount = 1", "DELETE FROM billing_posting"]))
    def change_the_past(self, change):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(change)

    @invariant()
    def accounts_and_lines_are_those_of_the_model(self):
        for account, model in zip(self.accounts, self.model, strict=True):
            account.refresh_from_db()
            assert (account.balance, account.held) == (model.balance, model.held)
            assert account.available() == model.balance - model.held + model.credit >= 0
            lines = Posting.objects.filter(account=account).order_by("id")
            assert list(lines.values_list("kind", "amount", "balance_after", "held_after")) == model.lines

    @invariant()
    def what_was_given_is_what_was_taken_and_what_is_there(self):
        for account, model in zip(self.accounts, self.model, strict=True):
            given = sum(amount for kind, amount, *_ in model.lines if kind in ("top_up", "adjustment"))
            taken = sum(amount for kind, amount, *_ in model.lines if kind == "capture")
            assert given == taken + account.held + (account.balance - account.held)

    @invariant()
    def the_books_are_right(self):
        assert list(audit.findings(audit.CHECKS)) == []


def test_any_life_of_the_ledger_is_that_of_a_plain_model(db):
    live(Ledger, lives=20, steps=20)
