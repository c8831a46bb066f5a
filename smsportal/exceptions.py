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
