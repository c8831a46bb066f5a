"""How much may be sent: by a key, by a user, to a number, to numbers in a row; and the same text only once.

All limits of a message are taken in one statement (smsportal/rates.py), after everything else has been checked and
before its money is held. Those of a message count whether it is sent or sent again. A repeated request, which makes
nothing new, does not count. What an account may spend in a day is counted with the money, in billing/ledger.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from django.conf import settings
from django.db import Error as DatabaseError
from django.db.models.functions import Now

from outbox.exceptions import DuplicateMessage, NotPaid
from outbox.models import Outbox
from smsportal import notices, rates
from smsportal.exceptions import RateLimited
from smsportal.models import Notice, User
from smsportal.rates import Limit

MINUTE, HOUR = 60, 3600
ROW_DIGITS = 4  # numbers that differ in their last four digits only are in a row
DUPLICATE = "duplicate"
IN_A_ROW = "numbers_in_a_row"
NOTICE_STAYS = timedelta(days=1)


@contextmanager
def taken(entry: Outbox, api_key_id: int | None) -> Iterator[None]:
    """Take a place in every limit of a message, or in none; give them back when it is not accepted after all.

    Whoever is told to repeat a request must not be held up by its first try. A message that is logged for want of money
    keeps its places. Raises RateLimited, DuplicateMessage.
    """
    limits = [*_of_sender(entry.user, api_key_id), *_of_recipient(entry)]
    if settings.SMS_DUPLICATE_GUARD == "refuse" and entry._state.adding:
        limits.append(_same_text(entry))
    _take(entry, limits)
    try:
        yield
    except NotPaid:
        raise
    except Exception:
        with suppress(DatabaseError):  # without a database they come back by themselves, in time
            rates.give_back(limits)
        raise


def _take(entry: Outbox, limits: list[Limit]) -> None:
    try:
        rates.take(limits)
    except RateLimited as refusal:
        if refusal.limit == DUPLICATE:
            first = earlier_same(entry)
            raise DuplicateMessage(first.pk if first else None, refusal.retry_after_s) from refusal
        if refusal.limit == "perPrefix":
            _warn_of_numbers_in_a_row(entry)
        raise


def _of_sender(user: User, api_key_id: int | None) -> Iterator[Limit]:
    if api_key_id and (most := settings.SMS_KEY_RATE_LIMIT_PER_MINUTE):
        yield Limit("perKey", str(api_key_id), most, MINUTE, f"At most {most} messages a minute with one key.")
    own = user.live.rate_limit_per_minute
    if most := settings.SMS_RATE_LIMIT_PER_MINUTE if own is None else own:
        yield Limit("perUser", str(user.pk), most, MINUTE, f"At most {most} messages a minute.")


def _of_recipient(entry: Outbox) -> Iterator[Limit]:
    row = f"{entry.user_id}/{entry.recipient[:-ROW_DIGITS]}"
    if most := settings.SMS_PREFIX_LIMIT_PER_MINUTE:
        yield Limit("perPrefix", row, most, MINUTE, f"At most {most} messages a minute to numbers of one range.")
    number = f"{entry.user_id}/{entry.recipient}"
    if most := settings.SMS_RECIPIENT_LIMIT_PER_MINUTE:
        yield Limit("perRecipient", number, most, MINUTE, f"At most {most} messages a minute to one number.")
    if most := settings.SMS_RECIPIENT_LIMIT_PER_HOUR:
        yield Limit("perRecipient", number, most, HOUR, f"At most {most} messages an hour to one number.")
    if entry.is_private() and (pause_s := settings.SMS_OTP_COOL_DOWN_S):
        yield Limit("otpCoolDown", number, 1, pause_s, "A one-time password went to this number a moment ago.")


def _same_text(entry: Outbox) -> Limit:
    about = f"{entry.user_id}/{entry.recipient}/{entry.text}"
    return Limit(DUPLICATE, about, 1, settings.SMS_DUPLICATE_WINDOW_S, "The same text went to this number.")


def earlier_same(entry: Outbox) -> Outbox | None:
    """Another message of the user's with this text to this number, of a moment ago."""
    window = Now() - timedelta(seconds=settings.SMS_DUPLICATE_WINDOW_S)
    same = Outbox.objects.filter(user=entry.user_id, recipient=entry.recipient, text=entry.text, created_at__gt=window)
    return same.exclude(pk=entry.pk).order_by("-pk").first()


def duplicate_of(entry: Outbox) -> Outbox | None:
    """What to warn the sender of an accepted message of, if that is what the operator wants."""
    return earlier_same(entry) if settings.SMS_DUPLICATE_GUARD == "warn" else None


def _warn_of_numbers_in_a_row(entry: Outbox) -> None:
    text = (
        f"{entry.user.get_username()} sends to many numbers in a row, and is held up. Somebody may be pumping messages"
        " through them to numbers that earn from it: see their outbox, and limit the countries of their account."
    )
    notices.tell_staff(IN_A_ROW, str(entry.user_id), text, Notice.Level.WARNING)


def purge() -> int:
    """Forget what has no effect any more, and end the warnings of yesterday; returns how much was forgotten."""
    Notice.objects.filter(kind=IN_A_ROW, ended_at=None, created_at__lt=Now() - NOTICE_STAYS).update(ended_at=Now())
    return rates.purge()
