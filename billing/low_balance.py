"""Tell users in time that their money runs out: once, until they have topped up."""

from datetime import timedelta
from decimal import Decimal

from django.db.models import Count, Max, Min, Q, Sum
from django.db.models.functions import Now

from billing.models import Account, Posting
from smsportal import notices
from smsportal.models import WebhookEndpoint
from smsportal.webhooks import events

KIND = "balance.low"
WEEK = timedelta(days=7)
READ_AT_MOST = 10_000  # postings, for the pace: a busy account shows its pace in few of them


def watch(account: Account, posting: Posting) -> None:
    """Tell the user when what is available is at or below his threshold, and withdraw that when money came in.

    In the transaction that moved the money, whose lock on the account lets exactly one of many see the crossing.
    """
    available = posting.balance_after - posting.held_after + account.credit_limit
    if available <= account.threshold():
        tell(account, available)
    elif posting.kind in (Posting.Kind.TOP_UP, Posting.Kind.ADJUSTMENT):
        notices.end_for_user(account.user_id, KIND, "")


def look_at(account: Account) -> None:
    """The same for an account as it stands, whose row is locked: its threshold has changed."""
    if account.available() <= account.threshold():
        tell(account, account.available())
    else:
        notices.end_for_user(account.user_id, KIND, "")


def tell(account: Account, available: Decimal) -> None:
    """Tell the user, unless he was told already."""
    # Only who has the lock on the account begins and ends these notices. The pace is read for a new one alone.
    if notices.is_told(account.user_id, KIND, ""):
        return
    threshold = account.threshold()
    left, limit = (f"{amount.normalize():f} {account.currency}" for amount in (available, threshold))
    text = f"Your balance is low: {left} {_lasts(account, available)}. Top up to keep sending. (Threshold: {limit}.)"
    if notices.tell_user(account.user_id, KIND, "", text):
        facts = {"available": float(available), "lowBalanceThreshold": float(threshold), "currency": account.currency}
        events.record(WebhookEndpoint.Event.BALANCE_LOW, [account.user_id], lambda: [(account.user_id, facts)])


def _lasts(account: Account, available: Decimal) -> str:
    days = days_left(account, available)
    return "is left" if days is None else f"is left, enough for about {days} day{'' if days == 1 else 's'} at this pace"


def days_left(account: Account, available: Decimal) -> int | None:
    """For how many days `available` lasts at the pace of the last week; None when nothing was spent in it."""
    latest = account.postings.order_by("-id").values("pk")[:READ_AT_MOST]
    week = Posting.objects.filter(pk__in=latest, created_at__gt=Now() - WEEK)
    seen = week.aggregate(
        count=Count("pk"),
        spent=Sum("amount", filter=Q(kind=Posting.Kind.CAPTURE)),
        span=Max("created_at") - Min("created_at"),
    )
    if not seen["spent"]:
        return None
    span = WEEK if seen["count"] < READ_AT_MOST else seen["span"]
    return int(max(available, Decimal(0)) * Decimal(span.total_seconds()) / 86_400 / seen["spent"])
