"""The story of a message up to the moment it waits for a dispatcher: checked, priced, paid for, written down."""

import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Required, TypedDict, Unpack

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F

from billing import ledger, pricing
from billing.exceptions import InsufficientBalance
from billing.models import Account, Price
from outbox import idempotency, limits, notices, recipients, routing, segments, sender_ids, validation
from outbox.exceptions import (
    DuplicateMessage,
    InFlight,
    MaxTotalCostExceeded,
    NotCancellable,
    NotFailed,
    NotPaid,
    RetryLimitReached,
    SenderIdNotAllowed,
    TooManySegments,
)
from outbox.models import Outbox
from smsportal.conflicts import repeated_on_conflict
from smsportal.exceptions import RateLimited
from smsportal.models import User, uuid7

Status = Outbox.Status
ChargeStatus = Outbox.ChargeStatus


@dataclass(frozen=True)
class Quote:
    """What a text to a number costs its sender at this moment."""

    account: Account
    price: Price
    segmentation: segments.Segmentation
    as_of: datetime  # by the database's clock, the one that all times of a message are taken from

    @property
    def total_cost(self) -> Decimal:
        """In the account's currency: exactly segments times price."""
        return self.segmentation.segments * self.price.price_per_segment


def quote(user: User, recipient: str, text: str) -> Quote:
    """Count and price a text. recipient: E.164. Raises TooManySegments, NoPrice."""
    segmentation = segments.count(text)
    if segmentation.segments > settings.SMS_MAX_SEGMENTS:
        raise TooManySegments(
            f"The message needs {segmentation.segments} segments; {settings.SMS_MAX_SEGMENTS} are allowed. Shorten it.",
            smsUnitsUsed=segmentation.segments,
        )
    account = ledger.account_of(user)
    price, as_of = pricing.price_for(user, recipient, account.currency)
    return Quote(account, price, segmentation, as_of)


class Draft(TypedDict, total=False):
    """A message as somebody wants it sent; nothing of it is checked yet."""

    recipient: Required[str]  # a number as typed
    text: Required[str]
    sender_id: str | None
    message_id: str | None
    message_name: str | None
    scheduled_at: datetime | None
    priority: Outbox.Priority
    tags: list[str]
    custom_data: dict[str, Any] | None
    max_total_cost: Decimal | None
    validity_minutes: int | None  # how long it may wait for a provider


def check(user: User, **draft: Unpack[Draft]) -> tuple[Outbox, Quote]:
    """A message as it would be accepted now, and its price; nothing is stored.

    Raises ValidationError naming the fields, SenderIdNotAllowed, RecipientNotAllowed, TooManySegments, NoPrice,
    MaxTotalCostExceeded.
    """
    outbox_id = uuid7()
    message_id = draft.get("message_id")
    entry = Outbox(
        id=outbox_id,
        user=user,
        is_test=user.is_test_twin,
        message_id=str(outbox_id) if message_id is None else message_id,
        max_retries=user.retries_allowed(),
        priority=draft.get("priority", Outbox.Priority.NORMAL),
    )
    _fill(entry, draft)
    if entry.recipient == entry.sender_id:
        raise ValidationError(
            {"recipient": ValidationError("This is the number that the message is sent from.", "own_number")}
        )
    entry.provider = routing.choose(entry, attempt_number=1)
    quoted = quote(user, entry.recipient, entry.text)
    recipients.refuse_not_allowed(quoted.account, entry.recipient)
    most = draft.get("max_total_cost")
    if most is not None and quoted.total_cost > most:
        raise MaxTotalCostExceeded(quoted.total_cost, most, quoted.account.currency)
    _time(entry, quoted.as_of, draft.get("scheduled_at"), draft.get("validity_minutes"))
    for name, value in _frozen_price(quoted).items():
        setattr(entry, name, value)
    return entry, quoted


def send(user: User, *, request: idempotency.Request | None = None, **draft: Unpack[Draft]) -> Outbox:
    """Accept a message: when this returns, it is in the outbox, its money is held, and it will be dispatched.

    request: what makes a repetition known; without it only `message_id` does.
    Raises what check() raises, RateLimited, DuplicateMessage: nothing is logged. Raises NotPaid: logged as failed.
    Raises Repeated, IdempotencyKeyReused, InFlight for a request seen before.
    """
    said = {"to": draft["recipient"], "text": draft["text"]}
    request = request or idempotency.Request(user, idempotency.fingerprint("send", said))
    request.refuse_repeated()
    if (message_id := draft.get("message_id")) is not None:
        _refuse_repeated_message_id(user, message_id, request)
    entry, quoted = check(user, **draft)
    entry.request_fingerprint = request.fingerprint
    try:
        with limits.taken(entry, request.api_key_id):
            return _accept(quoted, request, first=entry)
    except (IntegrityError, RateLimited, DuplicateMessage):
        # Perhaps a rival was quicker with the same key or message id: what it made is the answer to this request too.
        request.refuse_repeated()
        _refuse_repeated_message_id(user, entry.message_id, request)
        raise


def sender_id_of(user: User, draft: Draft) -> str | None:
    """What a message is sent as: what it names, else the user's default; None for the provider's."""
    sender_id = draft.get("sender_id")
    return (user.live.default_sender_id or None) if sender_id is None else sender_id


def _fill(entry: Outbox, draft: Draft) -> None:
    """Check what the caller wrote and put it on the entry.

    Raises ValidationError naming every field at fault; when there is none, SenderIdNotAllowed.
    """
    errors: dict[str, ValidationError] = {}
    refusals: list[SenderIdNotAllowed] = []

    def clean(field: str, rule: Any, *values: Any) -> None:
        try:
            setattr(entry, field, rule(*values))
        except ValidationError as error:
            errors[field] = error
        except SenderIdNotAllowed as refusal:
            refusals.append(refusal)

    clean("recipient", validation.clean_recipient, draft["recipient"])
    clean("text", validation.clean_text, draft["text"])
    clean("message_id", validation.clean_name, entry.message_id)
    clean("tags", validation.clean_tags, draft.get("tags", []))
    if (sender_id := sender_id_of(entry.user, draft)) is not None:
        clean("sender_id", sender_ids.clean, sender_id, entry.user)
    if (message_name := draft.get("message_name")) is not None:
        clean("message_name", validation.clean_name, message_name)
    if (custom_data := draft.get("custom_data")) is not None:
        clean("custom_data", validation.clean_custom_data, custom_data)
    if errors:
        raise ValidationError(errors)
    if refusals:
        raise refusals[0]


def _time(entry: Outbox, now: datetime, scheduled_at: datetime | None, validity_minutes: int | None) -> None:
    """Set when the message is due and how long it may wait. Raises ValidationError."""
    try:
        if scheduled_at is not None:
            entry.scheduled_at = validation.clean_schedule(scheduled_at, now)
    except ValidationError as error:
        raise ValidationError({"scheduled_at": error}) from error
    try:
        entry.validity_minutes = validation.clean_validity(
            settings.SMS_VALIDITY_MINUTES if validity_minutes is None else validity_minutes
        )
    except ValidationError as error:
        raise ValidationError({"validity_minutes": error}) from error
    entry.created_at = now
    entry.due_at = scheduled_at or now
    entry.expires_at = entry.due_at + timedelta(minutes=entry.validity_minutes)


def _frozen_price(quoted: Quote) -> dict[str, Any]:
    """The price as it is copied onto the message, so that no later price list can change it."""
    return {
        "encoding": quoted.segmentation.encoding,
        "segments": quoted.segmentation.segments,
        "price_per_segment": quoted.price.price_per_segment,
        "total_cost": quoted.total_cost,
        "currency": quoted.account.currency,
    }


@repeated_on_conflict
def _accept(quoted: Quote, request: idempotency.Request, *, first: Outbox) -> Outbox:
    """Write the message and hold its money, in one transaction; without the money, write it as failed."""
    entry = copy.copy(first)  # which stays as it is: a repeat begins with it again
    refusal: InsufficientBalance | None = None
    with transaction.atomic():
        entry.charge_status = ChargeStatus.HELD
        with idempotency.waiting_for_rivals():
            entry.save(force_insert=True)
            request.remember(entry)
        try:
            ledger.hold(quoted.account, entry.total_cost, entry.hold_reference)
        except InsufficientBalance as error:
            refusal = error
            entry.status, entry.charge_status, entry.due_at = Status.FAILED, ChargeStatus.NONE, None
            entry.error_code, entry.error_details = error.code, error.message
            entry.save(update_fields=["status", "charge_status", "due_at", "error_code", "error_details"])
    if refusal:  # raised only now: the failed message stays written
        raise NotPaid(refusal.message, entry, **refusal.members)
    return entry


def quote_resend(entry: Outbox) -> Quote:
    """What a resend would cost at this moment.

    Raises NotFailed, RetryLimitReached, SenderIdNotAllowed, RecipientNotAllowed, TooManySegments, NoPrice.
    """
    _refuse_resend(entry)
    if entry.sender_id and not sender_ids.is_allowed(entry.sender_id, entry.user):
        raise SenderIdNotAllowed(entry.sender_id)
    quoted = quote(entry.user, entry.recipient, entry.text)
    recipients.refuse_not_allowed(quoted.account, entry.recipient)
    return quoted


def resend(entry: Outbox, *, request: idempotency.Request | None = None) -> Outbox:
    """Try a failed message again: the same row, at today's price, with a hold of its own.

    Of many at once exactly one wins for each failure. Raises what quote_resend() raises, RateLimited, NotPaid: then
    nothing changes and no retry is counted. Raises Repeated, IdempotencyKeyReused, InFlight.
    """
    if request:
        request.refuse_repeated()
    quoted = quote_resend(entry)
    try:
        with limits.taken(entry, request.api_key_id if request else None):
            _accept_again(entry, quoted, request)
    except InsufficientBalance as error:
        entry.refresh_from_db()
        raise NotPaid(error.message, entry, **error.members) from error
    except (IntegrityError, RateLimited):
        entry.refresh_from_db()
        if request:
            request.refuse_repeated()
        raise
    return entry


@repeated_on_conflict
def _accept_again(entry: Outbox, quoted: Quote, request: idempotency.Request | None) -> None:
    """Let the message wait for a dispatcher once more and hold its money, in one transaction."""
    with transaction.atomic():
        if request:
            with idempotency.waiting_for_rivals():
                request.remember(entry)
        won = Outbox.objects.filter(
            pk=entry.pk, status=Status.FAILED, retry_count__lt=F("max_retries"), retry_count=entry.retry_count
        ).update(
            **_frozen_price(quoted),
            status=Status.PENDING,
            charge_status=ChargeStatus.HELD,
            delivery_status=None,
            delivered_at=None,
            error_code=None,
            error_details=None,
            retry_count=F("retry_count") + 1,
            provider=routing.choose(entry, entry.attempt_count + 1),
            scheduled_at=None,  # a message that is sent again is sent now
            due_at=quoted.as_of,
            expires_at=quoted.as_of + timedelta(minutes=entry.validity_minutes),
        )
        entry.refresh_from_db()
        if not won:
            _refuse_resend(entry)
            raise InFlight("Another request sent it again in the meantime, and it failed again: look at it first.")
        ledger.hold(quoted.account, entry.total_cost, entry.hold_reference)
        notices.sent_again(entry)


@repeated_on_conflict
def cancel(entry: Outbox) -> Outbox:
    """Withdraw a message that still waits for a provider; its money is given back. Raises NotCancellable."""
    with transaction.atomic():
        won = Outbox.objects.filter(pk=entry.pk, due_at__isnull=False).update(
            status=Status.FAILED,
            charge_status=ChargeStatus.RELEASED,
            due_at=None,
            error_code="cancelled",
            error_details="Cancelled before it was handed to a provider.",
        )
        entry.refresh_from_db()
        if not won:
            raise NotCancellable(entry)
        ledger.release(entry.hold_reference)
    return entry


def _refuse_resend(entry: Outbox) -> None:
    if entry.status != Status.FAILED:
        raise NotFailed(entry)
    if entry.retry_count >= entry.max_retries:
        raise RetryLimitReached(entry)


def _refuse_repeated_message_id(user: User, message_id: str, request: idempotency.Request) -> None:
    first = Outbox.objects.filter(user=user, message_id=message_id).first()
    if first is not None:
        request.refuse(first, first.request_fingerprint, "messageId")
