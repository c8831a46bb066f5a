"""Bad input and attacks, by the rows of one matrix: each is refused as it should be, and nothing at all comes of it.

A row is tried here, or names the tests that keep it; a row without either is a failure.
"""

import ast
import json
import re
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

import pytest
from django.utils import timezone

from billing import ledger
from outbox import sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import OutcomeUnknown, Rejected
from smsportal.models import User
from tests.database import whole_database
from tests.factories import UserFactory
from tests.portal import ROOT

SEND, RESEND, LIST, HOOKS = "/api/sms/send", "/api/sms/outbox/resend", "/api/sms/outbox", "/api/webhooks"
GOOD = {"recipientPhoneNumber": "+254711000001", "message": "Your code is 4321"}

ROWS = {
    "A1": "no, a wrong, revoked, empty or doubled key",
    "A2": "a key in the address",
    "A3": "keys guessed by how long their refusal takes",
    "A4": "a thousand wrong keys in a minute",
    "A5": "another user named in the body",
    "A6": "fields that only the portal sets",
    "A7": "another user's id",
    "A8": "ids guessed from their neighbours",
    "A10": "a resend of what has not failed, or too often",
    "A11": "forty resends at once",
    "A12": "two hundred sends at once with money for ten",
    "A13": "a balance that just suffices, or just does not",
    "A14": "a price of nothing or less",
    "A15": "a price beyond all bounds",
    "A16": "an Idempotency-Key that cannot be one, or is used for something else",
    "A17": "the same request in another spelling",
    "A19": "a body that is no JSON object",
    "A20": "a body that is no UTF-8",
    "A21": "a body of another type",
    "A23": "a body that is too large, or never ends",
    "A24": "clients that send slowly, by the dozen",
    "A26": "a message with nothing to read in it",
    "A27": "a message that is no text",
    "A28": "more segments than allowed; the edges of a segment",
    "A29": "characters that are none",
    "A30": "texts that look like others, or turn the text around them",
    "A31": "spaces and newlines around a text",
    "A32": "templates, formats and expressions in a text",
    "A33": "what is no number, or none to send to",
    "A35": "several numbers",
    "A36": "a sender ID that no network carries",
    "A37": "a sender ID of somebody else",
    "A38": "tags that cannot be",
    "A39": "customData that cannot be",
    "A40": "customData with characters that cannot be stored",
    "A41": "nesting without end",
    "A43": "fields that do not exist",
    "A45": "floods: of one number, of numbers in a row, of a dear country",
    "A46": "one-time passwords, one a second",
    "A47": "a day's limit passed by many at once",
    "A49": "filters that look into other tables, or take for ever",
    "A50": "another format than JSON asked for",
    "A51": "other methods",
    "A53": "another site's script",
    "A54": "forged receipts",
    "A55": "receipts of long ago, or replayed",
    "A56": "receipts that cannot be, or of somebody else's message",
    "A57": "a flood of receipts",
    "A59": "webhooks that lead inside",
    "A60": "webhooks that lead inside only when they are called",
    "A61": "a provider changed by those who may not",
    "A62": "markup in what users write",
    "A64": "formulas in an export",
    "A65": "an export of everything, or of another user's messages",
    "A66": "acts by a link, or by another site's form",
    "A67": "a double click",
    "A68": "a page in somebody else's frame",
    "A69": "passwords tried out, users found out",
    "A70": "staff who do more than they may",
    "A72": "states and costs changed by hand",
    "A73": "searches that break, or take for ever",
    "A74": "private texts in histories, mails and error pages",
    "A76": "a way elsewhere after the log-in, a foisted session, cookies that leak",
    "A77": "private pages kept by browsers",
    "A78": "alerts misused",
    "A79": "addresses that were left behind",
}

KEPT_BY = {
    "A1": ["smsportal/test_api.py::test_all_who_are_not_let_in_get_the_same_answer"],
    "A2": [
        "smsportal/test_api.py::test_all_who_are_not_let_in_get_the_same_answer",
        "smsportal/test_keys.py::test_a_key_in_the_address_is_refused_and_written_into_no_log",
    ],
    "A3": [
        "smsportal/test_api.py::test_only_a_digest_of_a_key_is_stored",
        "smsportal/test_keys.py::test_a_nearly_right_key_is_looked_for_just_as_a_wholly_wrong_one",
    ],
    "A4": ["smsportal/test_rates.py::test_of_many_wrong_keys_from_one_address_a_hundred_a_minute_are_answered"],
    "A7": ["smsportal/test_two_users.py::test_anothers_id_is_answered_as_one_that_nobody_has"],
    "A11": ["outbox/test_api.py::test_of_forty_racing_resends_over_http_exactly_one_wins"],
    "A12": ["outbox/test_sending.py::test_of_forty_sends_at_once_exactly_as_many_are_accepted_as_are_paid_for"],
    "A14": ["billing/test_pricing.py::test_the_database_refuses_a_price_that_cannot_be_meant"],
    "A15": ["billing/test_pricing.py::test_the_database_refuses_a_price_that_cannot_be_meant"],
    "A16": ["outbox/test_api.py::test_keys_are_each_users_own"],
    "A17": ["outbox/test_api.py::test_a_repeated_key_answers_200_with_the_entry_as_it_now_stands"],
    "A23": [
        "smsportal/test_slow_clients.py::test_a_body_that_is_announced_too_large_is_a_413_before_it_is_there",
        "smsportal/test_slow_clients.py::test_chunks_without_end_are_a_413",
        "smsportal/test_slow_clients.py::test_a_body_shorter_than_it_is_goes_no_further_than_announced",
    ],
    "A24": ["smsportal/test_slow_clients.py::test_fifty_of_each_kind_of_slow_client_keep_nobody_waiting"],
    "A28": ["outbox/test_segments.py::test_units_and_segments_at_the_edges"],
    "A30": ["outbox/test_pages.py::test_what_strangers_wrote_cannot_turn_the_text_around_it"],
    "A37": [
        "outbox/test_sender_ids.py::test_a_name_that_is_not_approved_for_the_user_is_refused_and_leaves_no_trace",
        "outbox/test_sender_ids.py::test_a_look_alike_of_anothers_name_is_approved_only_as_shared",
    ],
    "A45": [
        "outbox/test_limits.py::test_five_hundred_messages_to_one_number_in_a_minute_end_at_its_limit",
        "outbox/test_limits.py::test_numbers_in_a_row_share_their_places_and_the_staff_are_told_once",
        "outbox/test_limits.py::test_an_account_sends_to_its_countries_and_prefixes_only",
    ],
    "A46": ["outbox/test_limits.py::test_a_one_time_password_waits_for_the_one_before_it_and_nothing_else_does"],
    "A47": ["outbox/test_limits.py::test_of_forty_messages_at_once_exactly_as_many_are_accepted_as_the_day_allows"],
    "A50": [
        "smsportal/test_headers.py::test_no_format_makes_the_api_answer_anything_but_json",
        "smsportal/test_api.py::test_the_api_speaks_json_whatever_is_asked_for",
    ],
    "A51": [
        "smsportal/test_headers.py::test_no_header_changes_the_method",
        "smsportal/test_routes.py::test_another_method_is_answered_with_those_there_are",
    ],
    "A53": [
        "smsportal/test_headers.py::test_other_sites_are_not_let_in_by_a_question_before",
        "smsportal/test_api.py::test_nothing_private_is_cached_and_nobody_else_may_read_it",
    ],
    "A54": [
        "outbox/test_callbacks.py::test_a_forged_receipt_is_refused_and_not_kept",
        "outbox/test_http_provider_receipts.py::test_without_a_configured_secret_every_callback_is_refused",
    ],
    "A55": ["outbox/test_callbacks.py::test_an_old_receipt_that_is_replayed_does_nothing_to_the_resent_message"],
    "A56": [
        "outbox/test_callbacks.py::test_what_no_receipt_can_be_made_of_is_refused_politely",
        "outbox/test_callbacks.py::test_a_status_that_nobody_knows_is_kept_and_changes_nothing",
        "outbox/test_callbacks.py::test_one_provider_does_not_speak_of_anothers_messages",
        "outbox/test_callbacks.py::test_news_of_a_message_whose_money_was_given_back_is_kept_for_the_staff",
        "outbox/test_callbacks.py::test_a_receipt_comes_by_get_or_post_and_in_no_other_way",
    ],
    "A57": ["load/test_slow_providers.py::test_a_flood_of_receipts_is_answered_and_sends_go_on"],
    "A59": ["smsportal/test_webhook_addresses.py::test_an_address_that_is_not_public_is_none_to_connect_to"],
    "A60": [
        "smsportal/test_webhook_addresses.py::test_a_name_that_leads_to_us_by_the_time_of_the_call_is_not_connected_to",
        "smsportal/test_webhook_addresses.py::test_a_redirect_is_not_followed_and_its_answer_not_kept",
    ],
    # Which providers there are is a setting of the machine; staff only stop and start them.
    "A61": ["outbox/test_admin_providers.py::test_only_those_who_may_stop_a_provider"],
    "A62": [
        "outbox/test_pages.py::test_no_page_holds_anything_inline_foreign_or_unescaped",
        "outbox/test_admin.py::test_what_strangers_write_is_escaped",
    ],
    "A64": ["outbox/test_export.py::test_no_cell_is_a_formula"],
    "A65": [
        "outbox/test_export.py::test_a_long_log_is_read_in_parts_and_never_held_whole",
        "outbox/test_export.py::test_it_holds_what_the_filters_let_through_and_nothing_of_others",
    ],
    "A66": [
        "smsportal/test_routes.py::test_looking_changes_nothing",
        "smsportal/test_routes.py::test_nothing_is_done_for_a_form_that_did_not_come_from_the_site",
        "smsportal/test_headers.py::test_a_form_from_another_site_is_refused_even_with_its_token",
    ],
    "A67": [
        "outbox/test_pages.py::test_a_confirmed_resend_is_done_once_however_often_it_is_posted",
        "browser/test_pages.py::test_a_double_click_sends_one_message",
    ],
    "A68": ["smsportal/test_headers.py::test_every_answer_is_guarded"],
    "A69": [
        "smsportal/test_log_ins.py::test_after_five_wrong_passwords_the_right_one_has_to_wait_too",
        "smsportal/test_log_ins.py::test_an_unknown_an_inactive_and_a_mistyped_user_are_answered_alike",
        "smsportal/test_log_ins.py::test_the_same_work_is_done_for_a_user_who_is_unknown",
    ],
    "A70": [
        "smsportal/test_routes.py::test_staff_without_a_permission_get_403_everywhere",
        "smsportal/test_routes.py::test_an_act_takes_its_own_permission_and_no_other_helps",
        "billing/test_admin.py::test_a_form_opened_before_money_was_spent_does_not_bring_it_back",
    ],
    "A72": ["smsportal/test_admin.py::test_no_form_of_the_admin_has_a_field_for_balance_state_or_cost"],
    "A73": [
        "outbox/test_admin.py::test_a_search_is_literal_exact_and_harmless",
        "outbox/test_admin.py::test_searches_use_an_index",
    ],
    "A74": [
        "outbox/test_admin.py::test_a_private_text_is_on_no_page_in_no_history_and_in_no_log",
        "smsportal/test_canaries.py::test_no_private_word_turns_up_where_it_does_not_belong",
    ],
    "A76": [
        "outbox/test_pages.py::test_logging_in_leads_nowhere_else",
        "smsportal/test_log_ins.py::test_a_session_that_was_foisted_on_somebody_is_not_the_one_they_log_in_with",
        "smsportal/test_headers.py::test_cookies_stay_with_the_site_and_out_of_scripts",
    ],
    "A77": ["smsportal/test_headers.py::test_every_answer_is_guarded"],
    "A78": ["smsportal/test_emails.py::test_a_letter_holds_no_line_of_somebody_elses"],
    "A79": ["smsportal/test_routes.py::test_there_is_no_other_address"],
}


@dataclass(frozen=True)
class Attack:
    """One request, and how it is refused."""

    row: str
    change: dict = field(default_factory=dict)  # of a good body
    at: str | None = None  # the field that is named
    status: int = 400
    code: str = "invalid"
    body: bytes | None = None  # in the place of JSON
    path: str = SEND
    method: str = "POST"
    headers: dict = field(default_factory=dict)
    content_type: str = "application/json"


def message(row, text, **refused):
    return Attack(row, {"message": text}, "message", **refused)


def recipient(row, number):
    return Attack(row, {"recipientPhoneNumber": number}, "recipientPhoneNumber")


def deep(levels, opening, closing):
    return b'{"customData": ' + opening * levels + b"1" + closing * levels + b"}"


SOMEBODY = "019ab3c2-0000-7000-8000-000000000000"
ATTACKS = [
    Attack("A5", {"userId": SOMEBODY}, status=403, code="acting_for_others_not_allowed"),
    *(
        Attack("A6", {name: value}, name)
        for name, value in {
            "status": "sent",
            "totalCost": 0,
            "costPerUnit": 0,
            "smsUnitsUsed": -1,
            "retryCount": 0,
            "maxRetries": 99,
            "outboxId": SOMEBODY,
            "timestamps": {"createdAt": "2026-01-01T00:00:00Z"},
            "chargeStatus": "none",
            "currency": "XXX",
        }.items()
    ),
    Attack("A6", {"retryCount": 0}, "retryCount", path=RESEND),
    *(
        Attack("A16", at="Idempotency-Key", headers={"Idempotency-Key": key})
        for key in ("", "x" * 256, "a\tb", "schlüssel", "twice,twice")
    ),
    Attack(
        "A16", {"message": "Another"}, status=422, code="idempotency_key_reused", headers={"Idempotency-Key": "used"}
    ),
    *(Attack("A19", body=body) for body in (b"", b"null", b"[]", b'"x"', b"{", b"{} {}", b"\xef\xbb\xbf{}", b"1")),
    Attack("A20", body=b'{"recipientPhoneNumber": "+254711000001", "message": "\xff\xfe"}'),
    Attack(
        "A20", status=415, code="unsupported_media_type", content_type="application/json; charset=utf-16", body=b"{}"
    ),
    *(
        Attack("A21", status=415, code="unsupported_media_type", content_type=content_type, body=b"message=x")
        for content_type in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "")
    ),
    Attack(
        "A21",
        status=415,
        code="unsupported_media_type",
        content_type="application/x-www-form-urlencoded",
        body=b"recipientPhoneNumber=%2B254711000001&message=x",
    ),
    message("A23", "x" * 3_000_000, status=413, code="body_too_large"),
    *(message("A26", text) for text in ("", "   ", "\n\t", "\u200b\u2060\ufeff", "\u0301\u0308", "\u00a0")),
    *(message("A27", value) for value in (12345, True, ["x"], {"a": "x"}, None, 1.5)),
    *(message("A28", text, status=422, code="too_many_segments") for text in ("x" * 919, "€" * 460, "я" * 403)),
    *(message("A29", f"a{character}b") for character in ("\ud800", "\x00", "\x07", "\x1b", "\x9f", "\ufffe", "\ufdd0")),
    *(
        recipient("A33", number)
        for number in (
            *("", "+", "abc", "911", "+2547", "+" + "1" * 30, "+44 (0)7700 900123", "+254711000001;ext=5"),
            *("tel:+254711000001", "+٢٥٤٧١١٠٠٠٠٠١", "+254711000001\n", "+8816123456789", "+447000000000", 254711000001),
        )
    ),
    *(recipient("A35", several) for several in (["+254711000001"], "+254711000001,+254711000002", {"0": "x"})),
    *(
        Attack("A36", {"senderId": name}, "senderId")
        for name in (
            "A\r\nX-Evil: 1",
            "A\x00B",
            "CAFÉ☕",
            "TWELVECHARSX",
            "12345",
            "",
            "   ",
            "+447400123456",
            " AB",
            5,
        )
    ),
    *(
        Attack("A38", {"tags": tags}, "tags")
        for tags in (
            "OTP",
            [str(n) for n in range(1000)],
            ["x" * 65],
            ["a", "a"],
            [["a"]],
            [None],
            ["a\x00"],
            [""],
            {"OTP": 1},
        )
    ),
    *(
        Attack("A39", {"customData": data}, "customData")
        for data in (
            *(["a"], "a", 1, {"a": "x" * 8_192}, {"a": {"b": {"c": {"d": {"e": 1}}}}}, {"k" * 1024: 1}),
            {f"key{number}": number for number in range(1_000)},
        )
    ),
    *(
        Attack("A40", {"customData": data}, "customData")
        for data in ({"a": "\x00"}, {"\x00": "a"}, {"a": "\ud800"}, {"\ud800": "a"}, {"a": [{"b": ["\udfff"]}]})
    ),
    *(Attack("A41", body=deep(levels, b'{"a":', b"}")) for levels in (17, 1_000, 10_000)),
    *(Attack("A41", body=deep(levels, b"[", b"]")) for levels in (1_000, 30_000)),
    *(
        Attack("A43", {name: "x"}, name)
        for name in ("sender_id", "recipient", "to", "text", "__proto__", "constructor", "Message")
    ),
    *(
        Attack("A49", at=query.partition("=")[0], method="GET", path=f"{LIST}?{query}")
        for query in (
            *(
                "user__password__startswith=p",
                "status__regex=(a%2B)%2B$",
                "user=1",
                "ordering=text",
                "status=delivered",
            ),
            *("tag=%00", "cursor=cj0xJnA9JzsgRFJPUCBUQUJMRQ==", f"pageSize={'9' * 5000}", "status="),
        )
    ),
    *(
        Attack("A59", at="url", path=HOOKS, body=json.dumps({"url": url}).encode())
        for url in (
            *("https://127.0.0.1/", "https://0/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://10.0.0.1/"),
            *("https://169.254.169.254/latest", "https://100.64.0.1/", "https://2130706433/", "https://0x7f.1/"),
            *("https://017700000001/", "https://localhost./", "https://user:pass@203.0.113.7/", "http://198.51.100.7/"),
            *("https://198.51.100.7:5432/", "file:///etc/passwd", "gopher://127.0.0.1/", "javascript:alert(1)", "//x"),
        )
    ),
    *(
        Attack("A78", at=name, method="PATCH", path="/api/alerts/settings", body=json.dumps({name: value}).encode())
        for name, value in (
            *(("lowBalanceThreshold", -1), ("lowBalanceThreshold", 10**12), ("lowBalanceThreshold", "many")),
            *(
                ("alertEmail", "a@example.com\nBcc: b@example.com"),
                ("alertEmail", "nobody"),
                ("alertEmail", "\x1d"),
                ("maxRetries", 99),
            ),
        )
    ),
]


def name_of(attack):
    told = attack.change or attack.headers or attack.body or attack.content_type
    return f"{attack.row} {attack.method} {attack.path[:60]} {ascii(told)[:60]}"


@pytest.fixture
def ready(api):
    """A caller who has sent one message, with an Idempotency-Key, and who has been seen."""
    assert api.post(SEND, GOOD, headers={"Idempotency-Key": "used"}).status_code == 201
    return api


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_it_is_refused_by_name_and_nothing_comes_of_it(ready, provider, attack):
    before = whole_database()
    body = json.dumps(GOOD | attack.change).encode() if attack.body is None else attack.body

    answer = ready.generic(attack.method, attack.path, body, content_type=attack.content_type, headers=attack.headers)

    problem = json.loads(answer.content)
    assert answer["Content-Type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (attack.status, attack.status, attack.code)
    if attack.code == "invalid" and attack.at:
        named = {re.sub(r"\.\d+$", "", error["field"]) for error in problem["errors"]}
        assert attack.at in named if attack.path == RESEND else named == {attack.at}
    assert whole_database() == before
    assert provider.messages == []


LITERAL = [  # with the segments that each costs
    ("A28", "x" * 160, 1),
    ("A28", "x" * 161, 2),
    ("A28", "x" * 459, 3),
    ("A28", "x" * 460, 4),
    ("A28", "€" * 80, 1),
    ("A28", "^{}[]~\\|€" * 9, 2),
    ("A28", "я" * 70, 1),
    ("A28", "я" * 71, 2),
    ("A28", "я" * 134, 2),
    ("A28", "я" * 135, 3),
    ("A30", "pay \u202eLAP YAP\u202c now", 1),
    ("A30", "раypal", 1),
    ("A30", "Z\u0351\u036b\u0343a\u0320l\u0349g\u033bo", 1),
    ("A31", "  code 4321 \n", 1),
    ("A31", "\r\n\tcode", 1),
    *(("A32", text, 1) for text in ("{{7*7}}", "{recipient}", "%s%n%x", "${jndi:ldap://x/a}", "<#> 1 FA+9qC", "$(id)")),
]


@pytest.mark.parametrize(("row", "text", "units"), LITERAL, ids=lambda value: ascii(value)[:40])
def test_a_text_is_stored_counted_charged_and_handed_over_to_the_letter(api, provider, row, text, units):
    entry = api.post(SEND, GOOD | {"message": text}).json()
    Dispatcher(concurrency=1).run(once=True)

    assert (entry["message"], entry["smsUnitsUsed"], entry["totalCost"]) == (text, units, units)
    assert [handed.text for handed in provider.messages] == [text]
    assert ledger.account_of(User.objects.get()).balance == 10 - units


@pytest.mark.parametrize(
    ("balance", "status", "charge"), [("1", 201, "held"), ("0.9999", 402, "none")], ids=["A13 equal", "A13 short"]
)
def test_the_last_cent_sends_and_one_less_does_not(api, account, provider, balance, status, charge):
    ledger.adjust(account, Decimal(balance) - 10, reason="correction")

    answer = api.post(SEND, GOOD)

    account.refresh_from_db()
    assert answer.status_code == status
    assert Outbox.objects.get().charge_status == charge
    assert account.held == (1 if status == 201 else 0)
    if status == 402:
        problem = answer.json()
        assert (problem["required"], problem["available"]) == (1.0, 0.9999)


def _sent(account, provider):
    return sending.send(account.user, recipient="+254711000001", text="x")


def _pending(account, provider):
    later = timezone.now() + timedelta(hours=1)
    return sending.send(account.user, recipient="+254711000001", text="x", scheduled_at=later)


def _unknown(account, provider):
    provider.error = OutcomeUnknown("no answer")
    return _sent(account, provider)


def _often(account, provider):
    provider.error = Rejected("no")
    entry = _sent(account, provider)
    Dispatcher(concurrency=1).run(once=True)
    Outbox.objects.filter(pk=entry.pk).update(retry_count=3)
    return entry


@pytest.mark.parametrize(
    ("make", "code", "members"),
    [
        (_sent, "not_failed", {"outcome": None}),
        (_pending, "not_failed", {"outcome": None}),
        (_unknown, "not_failed", {"outcome": "unknown"}),
        (_often, "retry_limit_reached", {"retryCount": 3, "maxRetries": 3}),
    ],
    ids=["A10 sent", "A10 pending", "A10 unknown", "A10 at the cap"],
)
def test_what_may_not_be_resent_says_why_and_stays_as_it_is(api, account, provider, make, code, members):
    entry = make(account, provider)
    Dispatcher(concurrency=1).run(once=True)
    api.get(LIST)  # that the key was used is noted
    before, calls = whole_database(), len(provider.messages)

    answer = api.post(RESEND, {"outboxId": str(entry.pk)})

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, code)
    assert problem | members == problem
    assert whole_database() == before
    assert len(provider.messages) == calls


def test_a8_the_neighbours_of_an_id_lead_nowhere(client_of, account, price):
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    stranger = client_of(UserFactory())

    answers = {stranger.get(f"{LIST}/{type(entry.pk)(int=entry.pk.int + step)}").content for step in (-2, -1, 0, 1, 2)}

    assert len(answers) == 1


# Tried by tests of this file that are no lines of ATTACKS or LITERAL.
TRIED_HERE = {"A8", "A10", "A13"}


def test_every_row_is_tried_here_or_kept_by_tests_that_exist():
    tried = {attack.row for attack in ATTACKS} | {row for row, _, _ in LITERAL} | TRIED_HERE

    assert set(ROWS) == tried | set(KEPT_BY)
    for names in KEPT_BY.values():
        for path, name in (reference.split("::") for reference in names):
            module = ast.parse((ROOT / "tests" / path).read_text())
            assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"
