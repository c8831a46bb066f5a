"""Why money was not moved."""

from decimal import Decimal

from smsportal.exceptions import DomainError, RateLimited


class InsufficientBalance(DomainError):
    """Less is available than is asked for; nothing was set aside."""

    code = "insufficient_balance"

    def __init__(self, required: Decimal, available: Decimal, currency: str) -> None:
        super().__init__(
            f"{required.normalize():f} {currency} is needed and {available.normalize():f} {currency} is available.",
            required=required,
            available=available,
            currency=currency,
        )


class DailySpendReached(RateLimited):
    """The account has spent what it may on this day; nothing was set aside."""

    def __init__(self, limit: Decimal, currency: str, retry_after_s: int) -> None:
        rule = f"The account may spend {limit.normalize():f} {currency} a day (UTC), and this would be more."
        super().__init__("dailySpend", rule, retry_after_s)


class NoPrice(DomainError):
    """No price in force covers the number."""

    code = "no_price"


class AlreadySettled(DomainError):
    """The hold was captured or released before; it ends only once."""

    code = "already_settled"


class NoSuchHold(DomainError):
    """There is nothing to settle: the ledger and who asks it do not agree."""

    code = "no_such_hold"
