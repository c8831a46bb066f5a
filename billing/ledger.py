"""The only writer of money: each function is one line of the ledger and its change of the account, or nothing."""

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from django.db import IntegrityError, connection, transaction

from billing import low_balance
from billing.exceptions import AlreadySettled, DailySpendReached, InsufficientBalance, NoSuchHold
from billing.models import Account, Posting
from smsportal.instants import database_now
from smsportal.models import User, uuid7

Kind = Posting.Kind
# What one unit of each kind does to `balance` and to `held`.
EFFECT = {
    Kind.TOP_UP: (1, 0),
    Kind.ADJUSTMENT: (1, 0),
    Kind.HOLD: (0, 1),
    Kind.CAPTURE: (-1, -1),
    Kind.RELEASE: (0, -1),
}

PLAY_MONEY = Decimal(1000)


def account_of(user: User) -> Account:
    """The user's account, opened at first need: empty, or with play money for a test twin."""
    account = _account_of_twin(user) if user.is_test_twin else Account.objects.get_or_create(user=user)[0]
    account.user = user
    return account


def _account_of_twin(twin: User) -> Account:
    with transaction.atomic():
        account, new = Account.objects.get_or_create(user=twin, defaults={"currency": account_of(twin.live).currency})
        if new:
            top_up(account, PLAY_MONEY, reason="Play money for test keys")
            account.refresh_from_db()
    return account


def top_up(
    account: Account, amount: Decimal, *, reason: str, reference: str | None = None, by: User | None = None
) -> Posting:
    """Add paid money. amount: Decimal > 0, account currency. reference: the payment's id, used once."""
    if amount <= 0:
        raise ValueError("A top-up is more than 0.")
    return _post(account, Kind.TOP_UP, amount, reference or str(uuid7()), reason, by)


def adjust(
    account: Account, amount: Decimal, *, reason: str, reference: str | None = None, by: User | None = None
) -> Posting:
    """Correct the balance by a line of its own. amount: Decimal, not 0; what is taken must be available.

    Raises InsufficientBalance, and changes nothing, when less than `-amount` is available.
    """
    if amount == 0:
        raise ValueError("An adjustment is not 0.")
    return _post(account, Kind.ADJUSTMENT, amount, reference or str(uuid7()), reason, by)


def hold(account: Account, amount: Decimal, reference: str) -> Posting:
    """Set `amount` aside until capture() or release() settles it.

    amount: Decimal > 0, account currency. reference: the acceptance it pays for, used once.
    Raises InsufficientBalance, and sets nothing aside, when less than `amount` is available; DailySpendReached when
    the account's limit for a day would be passed.
    """
    return _post(account, Kind.HOLD, amount, reference)


def capture(reference: str) -> None:
    """Take the held money: what it paid for was done. Raises AlreadySettled."""
    settle(captured=[reference])


def release(reference: str) -> None:
    """Give the held money back. Raises AlreadySettled."""
    settle(released=[reference])


def settle(captured: Iterable[str] = (), released: Iterable[str] = ()) -> None:
    """End many holds at once, by their references: one update for each account they belong to.

    Raises AlreadySettled or NoSuchHold, and settles none, when one of them has ended before or never was.
    """
    kinds = dict.fromkeys(captured, Kind.CAPTURE) | dict.fromkeys(released, Kind.RELEASE)
    holds = Posting.objects.filter(kind=Kind.HOLD, reference__in=kinds).order_by("id")
    by_account: dict[int, list[Posting]] = defaultdict(list)
    for found in holds:
        by_account[found.account_id].append(found)
    if sum(map(len, by_account.values())) != len(kinds):
        raise NoSuchHold("A reference names no hold.")
    try:
        with transaction.atomic():
            for account_id in sorted(by_account):  # the same order for everybody: two settlements cannot deadlock
                _settle_account(account_id, [(hold, kinds[hold.reference]) for hold in by_account[account_id]])
    except IntegrityError as error:
        raise AlreadySettled("One of these holds was settled before.") from error


def _settle_account(account_id: int, endings: list[tuple[Posting, Kind]]) -> None:
    """Write the settlements of one account's holds, each with the balance as it stands after it."""
    balance_change = sum((EFFECT[kind][0] * hold.amount for hold, kind in endings), Decimal(0))
    held_change = sum((EFFECT[kind][1] * hold.amount for hold, kind in endings), Decimal(0))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_account SET balance = balance + %s, held = held + %s WHERE id = %s RETURNING balance, held",
            [balance_change, held_change, account_id],
        )
        balance, held = cursor.fetchone()
    balance, held = balance - balance_change, held - held_change
    postings = []
    for ended, kind in endings:
        balance += EFFECT[kind][0] * ended.amount
        held += EFFECT[kind][1] * ended.amount
        postings.append(
            Posting(
                account_id=account_id,
                kind=kind,
                amount=ended.amount,
                balance_after=balance,
                held_after=held,
                settles=ended,
                reference=ended.reference,
            )
        )
    Posting.objects.bulk_create(postings)


def _post(
    account: Account, kind: Kind, amount: Decimal, reference: str, reason: str = "", by: User | None = None
) -> Posting:
    """Change the account and write the line, and see whether the money is low now.

    Raises InsufficientBalance, DailySpendReached.
    """
    with transaction.atomic(savepoint=False):
        posting = _write(account, kind, amount, reference, reason, by)
        if posting is not None:
            low_balance.watch(account, posting)
    if posting is None:
        account.refresh_from_db()
        if kind == Kind.HOLD:
            _refuse_daily_spend(account, amount)
        raise InsufficientBalance(_spent(kind, amount), account.available(), account.currency)
    return posting


def _refuse_daily_spend(account: Account, amount: Decimal) -> None:
    """Raises DailySpendReached, if that is what stands against a hold of `amount`."""
    now = database_now()
    spent = account.spent_today if account.spent_on and account.spent_on >= now.date() else Decimal(0)
    limit = account.daily_spend_limit
    if limit is not None and spent + amount > limit:
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
        raise DailySpendReached(limit, account.currency, math.ceil((midnight - now).total_seconds()))


def _spent(kind: Kind, amount: Decimal) -> Decimal:
    """By how much it lowers what is available."""
    balance, held = EFFECT[kind]
    return (held - balance) * amount


def _write(
    account: Account, kind: Kind, amount: Decimal, reference: str, reason: str, by: User | None
) -> Posting | None:
    """One statement that changes the account and writes the line or, when it may not be, does neither.

    What is held counts for the day on which it is held. The day never goes back: who waited for the row over midnight
    counts for the day that others have begun meanwhile.
    """
    written = Posting.objects.raw(
        """
        WITH account AS (
            UPDATE billing_account
            SET balance = balance + %(balance)s, held = held + %(held)s,
                spent_today = CASE WHEN spent_on >= today.utc THEN spent_today ELSE 0 END + %(counted)s,
                spent_on = GREATEST(spent_on, today.utc)
            FROM (SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date AS utc) AS today
            WHERE id = %(account)s
              AND (%(spent)s <= 0 OR balance - held + credit_limit >= %(spent)s)
              AND (%(counted)s = 0 OR daily_spend_limit IS NULL
                   OR CASE WHEN spent_on >= today.utc THEN spent_today ELSE 0 END + %(counted)s <= daily_spend_limit)
            RETURNING balance, held
        )
        INSERT INTO billing_posting
            (account_id, kind, amount, balance_after, held_after, reference, reason, created_by_id)
        SELECT %(account)s, %(kind)s, %(amount)s, balance, held, %(reference)s, %(reason)s, %(by)s FROM account
        RETURNING *
        """,
        {
            "account": account.pk,
            "balance": EFFECT[kind][0] * amount,
            "held": EFFECT[kind][1] * amount,
            "spent": _spent(kind, amount),
            "counted": amount if kind == Kind.HOLD else Decimal(0),
            "kind": kind.value,
            "amount": amount,
            "reference": reference,
            "reason": reason,
            "by": by and by.pk,
        },
    )
    return next(iter(written), None)
