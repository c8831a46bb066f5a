"""What the portal promises, checked on what is left after the storm: SQL and arithmetic of its own, no code of ours.

What the provider has in its journal is the truth. Of each message, by its id:

- it is in the journal at most as often as it was accepted from its user (first, and by each resend) and then handed
  over with a yes or without an answer; what the provider refused, and what nobody was handed, is not in it;
- each attempt with a yes is in the journal and charged, each without an answer keeps its money held. So nothing that
  the journal has is ever failed with its money given back;
- when the receipts for the journal have come, it is charged exactly as often as it is in the journal. One case stays
  open: an answer was lost and an earlier acceptance was sent as well, so that the receipt may be about that one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import smsutil

from tests.chaos.evidence import Evidence, Row, message_of
from tests.chaos.traffic import Request

# Columns, and how the API calls them.
SAID = {"recipient": "recipientPhoneNumber", "text": "message", "message_id": "messageId"}
PRICE_SAID = {"segments": "smsUnitsUsed", "price_per_segment": "costPerUnit", "total_cost": "totalCost"}
PRICING_S = 10  # between looking up a price and holding it, at most


def broken(evidence: Evidence, *, receipts_are_in: bool) -> Iterator[str]:
    """One sentence for each promise that was not kept."""
    yield from _every_request_was_answered(evidence)
    yield from _what_was_answered_is_in_the_outbox(evidence)
    yield from _nothing_else_is_in_the_outbox(evidence)
    yield from _each_request_counts_once(evidence)
    yield from _nobody_waits_in_vain(evidence)
    yield from _an_acceptance_is_handed_over_until_somebody_may_have_it(evidence)
    yield from _the_journal_holds_what_was_handed_over(evidence)
    yield from _what_was_taken_is_charged(evidence, receipts_are_in=receipts_are_in)
    yield from _receipts_lead_forward_only(evidence)
    yield from _holds_cost_what_the_price_list_says(evidence)
    yield from _holds_end_as_their_messages_do(evidence)
    yield from _accounts_are_exact(evidence)


def _every_request_was_answered(evidence: Evidence) -> Iterator[str]:
    for request in evidence.requests:
        if not request.answers:
            yield f"{request.path} {request.headers} of {request.user} was never answered"
        for answer in request.answers:
            kind = "application/json" if answer.status < 400 else "application/problem+json"
            if answer.content_type != kind or answer.status not in (200, 201, 400, 402, 409, 422):
                yield f"{request.path} was answered with {answer.status} {answer.content_type}: {answer.body}"


def _what_was_answered_is_in_the_outbox(evidence: Evidence) -> Iterator[str]:
    """P7, P8. The price is the answered one as well, unless it was sent again at another."""
    for request in evidence.requests:
        for said in request.entries():
            row = evidence.outbox.get(said["outboxId"])
            if row is None or row["username"] != request.user:
                yield f"{said['outboxId']} was answered, and is not in the outbox of {request.user}"
                continue
            names = SAID | (PRICE_SAID if row["retry_count"] == said["retryCount"] else {})
            for column, name in names.items():
                if row[column] != said[name]:
                    yield f"{said['outboxId']}: {column} is {row[column]}, and {said[name]} was answered"


def _nothing_else_is_in_the_outbox(evidence: Evidence) -> Iterator[str]:
    """P15: what a lost answer was about is the message that its repetition found, and no other."""
    answered = {entry["outboxId"] for request in evidence.requests for entry in request.entries()}
    for pk in evidence.outbox.keys() - answered:
        yield f"{pk} is in the outbox, and nobody was told of it"


def _each_request_counts_once(evidence: Evidence) -> Iterator[str]:
    """P15, P16: however often it came."""
    resends: Counter[str] = Counter()
    senders: dict[str, Request] = {}
    for request in evidence.requests:
        ids = {entry["outboxId"] for entry in request.entries()}
        if len(ids) > 1:
            yield f"one request, {request.path} {request.headers}, has made {ids}"
        if request.path == "/api/sms/outbox/resend" and any(answer.status == 200 for answer in request.answers):
            resends.update(ids)
        if request.path == "/api/sms/send":
            for pk in ids & senders.keys():
                yield f"two requests have made {pk}: {request.headers} and {senders[pk].headers}"
            senders |= dict.fromkeys(ids, request)
    for pk, row in evidence.outbox.items():
        if row["retry_count"] != resends[pk] or row["retry_count"] > row["max_retries"]:
            yield f"{pk} was sent again {row['retry_count']} times, {resends[pk]} resends were answered"


def _nobody_waits_in_vain(evidence: Evidence) -> Iterator[str]:
    """P10, P11: when all is quiet, what is pending is unknown, and says so."""
    for pk, row in evidence.outbox.items():
        if row["status"] == "pending" and (row["outcome"], row["error_code"]) != ("unknown", "outcome_unknown"):
            yield f"{pk} is pending since {row['due_at'] or row['last_attempt_at']}, without a reason"
        if row["status"] == "failed" and not (row["error_code"] and row["error_details"]):
            yield f"{pk} failed, and does not say why"
        yield from (f"{pk}: attempt {one['number']} is open" for one in evidence.attempts[pk] if not one["outcome"])


def _an_acceptance_is_handed_over_until_somebody_may_have_it(evidence: Evidence) -> Iterator[str]:
    """P9, P12: after a yes, a no or silence nobody hands it over again, and no two ever do at once."""
    for pk, attempts in evidence.attempts.items():
        for before, after in pairwise(attempts):
            if before["hold_reference"] == after["hold_reference"] and before["outcome"] != "unavailable":
                yield f"{pk}: attempt {after['number']} was made after one that was {before['outcome']}"
            if before["finished_at"] and after["started_at"] < before["finished_at"]:
                yield f"{pk}: attempt {after['number']} began before the one before it had ended"
        if [one["number"] for one in attempts] != list(range(1, len(attempts) + 1)):
            yield f"{pk}: an attempt is missing among {len(attempts)}"


def _the_journal_holds_what_was_handed_over(evidence: Evidence) -> Iterator[str]:
    """P9: nothing twice, nothing that is not in the outbox, nothing changed on the way."""
    taken = evidence.taken()
    for pk in taken.keys() | evidence.attempts.keys():
        outcomes = Counter(one["outcome"] for one in evidence.attempts.get(pk, []))
        least, most = outcomes["accepted"], outcomes["accepted"] + outcomes["unknown"]
        if not least <= taken[pk] <= most:
            yield f"{pk} is in the journal {taken[pk]} times; its attempts came to {dict(outcomes)}"
    for line in evidence.journal:
        row = evidence.outbox.get(line["reference"])
        if row is None or (row["recipient"], row["text"]) != (line["to"], line["text"]):
            yield f"{line['reference']} is in the journal, and not so in the outbox"


def _what_was_taken_is_charged(evidence: Evidence, *, receipts_are_in: bool) -> Iterator[str]:
    """P3, P6, P14: see the top of this file."""
    taken, charged, unknown = evidence.taken(), evidence.charged(), evidence.unknown()
    open_cases = evidence.may_be_about_an_earlier_one() if receipts_are_in else unknown
    for pk in taken.keys() | charged.keys():
        surplus = taken[pk] - charged[pk]
        if not 0 <= surplus <= (pk in open_cases):
            yield f"{pk} was taken {taken[pk]} times and charged {charged[pk]} times"


def _receipts_lead_forward_only(evidence: Evidence) -> Iterator[str]:
    """P13, P21: delivered is final, and a forged one was never let in."""
    forged = {line["id"] for line in evidence.journal if line["mode"].endswith("/forged")}
    for receipt in evidence.receipts:
        if receipt["status"] == "undelivered" and receipt["provider_message_id"] in forged:
            yield f"receipt {receipt['id']} was forged"
        if receipt["status"] == "delivered" and receipt["effect"] == "applied":
            row = evidence.outbox[str(receipt["outbox_id"])]
            if (row["status"], row["delivery_status"]) != ("sent", "delivered"):
                yield f"{row['id']} was delivered, and is {row['status']} {row['delivery_status']}"


def _holds_cost_what_the_price_list_says(evidence: Evidence) -> Iterator[str]:
    """P5: segments, as another library counts them, times a price that was in force when the message was accepted."""
    for hold in evidence.postings:
        if hold["kind"] != "hold":
            continue
        row = evidence.outbox[message_of(hold)]
        segments = len(smsutil.split(row["text"]).parts)
        in_force = _prices_in_force(evidence.prices, row, hold["created_at"])
        if hold["amount"] not in {segments * price for price in in_force}:
            yield f"{hold['reference']}: {hold['amount']} is held for {segments} segments at one of {in_force}"


def _prices_in_force(prices: Iterable[Row], row: Row, at: datetime) -> set[Decimal]:
    """What a segment to the message's number may have cost its user at that moment, or just before it."""
    ours = [
        one
        for one in prices
        if one["user_id"] in (None, row["user_id"]) and row["recipient"][1:].startswith(one["prefix"])
    ]
    found = set()
    for moment in [at - timedelta(seconds=PRICING_S), at, *(one["effective_from"] for one in ours)]:
        begun = [one for one in ours if one["effective_from"] <= moment]
        if begun and at - timedelta(seconds=PRICING_S) <= moment <= at:
            best = max(begun, key=lambda one: (len(one["prefix"]), one["user_id"] is not None, one["effective_from"]))
            found.add(best["price_per_segment"])
    return found


def _holds_end_as_their_messages_do(evidence: Evidence) -> Iterator[str]:
    """P3: once; taken for a yes, given back for a no or when nobody was handed it, kept for silence."""
    endings = defaultdict(list)
    for posting in evidence.postings:
        if posting["kind"] in ("capture", "release"):
            endings[posting["reference"]].append(posting["kind"])
    outcomes = defaultdict(set)
    for attempts in evidence.attempts.values():
        for one in attempts:
            outcomes[one["hold_reference"]].add(one["outcome"])
    for hold in evidence.postings:
        if hold["kind"] != "hold":
            continue
        reached = outcomes[hold["reference"]]
        expected = "capture" if "accepted" in reached else "release"
        if endings[hold["reference"]] != ([] if "unknown" in reached else [expected]):
            yield f"hold {hold['reference']} ended by {endings[hold['reference']]}, its attempts: {reached or 'none'}"


def _accounts_are_exact(evidence: Evidence) -> Iterator[str]:
    """P1: to the last decimal, from the payments and from what the attempts say was sent."""
    booked = Counter(posting["reason"] for posting in evidence.postings if posting["kind"] == "top_up")
    for payment in evidence.payments:
        if booked[payment.reason] not in ({1} if payment.booked else {0, 1}):
            yield f"{payment} is in the ledger {booked[payment.reason]} times"
    amounts = {posting["reference"]: posting["amount"] for posting in evidence.postings if posting["kind"] == "hold"}
    for account in evidence.accounts:
        paid = sum(one.amount for one in evidence.payments if one.user == account["username"] and booked[one.reason])
        attempts = [
            one
            for pk, row in evidence.outbox.items()
            if row["user_id"] == account["user_id"]
            for one in evidence.attempts[pk]
        ]
        spent = sum(amounts[one["hold_reference"]] for one in attempts if one["outcome"] == "accepted")
        held = sum(amounts[one["hold_reference"]] for one in attempts if one["outcome"] == "unknown")
        has, due = (account["balance"], account["held"]), (paid - spent, held)
        if has != due:
            yield f"{account['username']} has {has[0]}, {has[1]} of it held, not {due[0]} and {due[1]}"
