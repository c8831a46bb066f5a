"""Errors of the domain: what was refused and why, without a word about HTTP."""

from typing import Any


class DomainError(Exception):
    """A refusal that the caller can act on.

    code: a stable word for programs. message: a sentence for a person. members: facts that help, by their
    names in the API; Decimal for money.
    """

    code = "error"

    def __init__(self, message: str, **members: Any) -> None:
        super().__init__(message)
        self.members = members

    @property
    def message(self) -> str:
        return str(self.args[0])


class RateLimited(DomainError):
    """Too often or too much for now. limit: which limit, by its name in the API."""

    code = "rate_limited"

    def __init__(self, limit: str, rule: str, retry_after_s: int) -> None:
        super().__init__(f"{rule} Try again in {_in_words(retry_after_s)}.", limit=limit, retryAfter=retry_after_s)
        self.limit = limit
        self.retry_after_s = retry_after_s


def _in_words(seconds: int) -> str:
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{-(-seconds // length)} {unit}s"
    return f"{seconds} second{'s' if seconds != 1 else ''}"
