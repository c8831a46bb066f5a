"""What the generic HTTP provider makes of each answer, from servers on real sockets."""

import time
from email.utils import formatdate
from typing import Any

import pytest

from outbox.providers.base import Accepted, OutcomeUnknown, Rejected, Unavailable
from tests.outbox.gateway import OPTIONS, YES, Gateway, answer, make, outcome

ANSWERS = [
    (YES, Accepted, "abc-1"),
    (answer(200, '{"status": "accepted", "id": 12345678901234567890}'), Accepted, "12345678901234567890"),
    (answer(200, '{"status": "accepted"}'), Accepted, None),
    (answer(200, '{"status": "accepted", "id": {"no": "id"}}'), Accepted, None),
    (answer(200, '{"status": "accepted", "id": true}'), Accepted, None),
    (answer(200, '{"status": "accepted", "id": "%s"}' % ("9" * 129)), Accepted, None),
    (answer(200, '{"status": "accepted", "id": "a\\u0000\\ud800b"}'), Accepted, "ab"),
    (answer(200, b'\xef\xbb\xbf{"status": "accepted", "id": "bom"}'), Accepted, "bom"),
    (answer(200, '{"status": "rejected"}'), Rejected, "provider_rejected"),
    (answer(400, '{"status": "rejected"}'), Rejected, "provider_rejected"),
    (answer(400, "bad number"), Rejected, "provider_rejected"),
    (answer(422), Rejected, "provider_rejected"),
    (answer(429), Unavailable, "provider_busy"),
    (answer(503, "<html>"), Unavailable, "provider_busy"),
    (answer(401), Unavailable, "provider_credentials"),
    (answer(403), Unavailable, "provider_credentials"),
    (answer(402), Unavailable, "provider_out_of_credit"),
    (answer(301, Location="http://[broken"), Unavailable, "provider_redirects"),
    (answer(302), Unavailable, "provider_redirects"),
    (answer(200, '{"status": "queued"}'), OutcomeUnknown, "outcome_unknown"),
    (answer(200, '{"status": "accep'), OutcomeUnknown, "outcome_unknown"),
    (answer(200, "[" * 60_000), OutcomeUnknown, "outcome_unknown"),
    (answer(200, "\xff\xfe\x00"), OutcomeUnknown, "outcome_unknown"),
    (answer(200, "<html>welcome</html>"), OutcomeUnknown, "outcome_unknown"),
    (answer(200, "not gzip", Content_Encoding="gzip"), OutcomeUnknown, "outcome_unknown"),
    (answer(200), OutcomeUnknown, "outcome_unknown"),
    (answer(201, '{"status": "accepted"}'), OutcomeUnknown, "outcome_unknown"),
    (answer(202), OutcomeUnknown, "outcome_unknown"),
    (answer(103), OutcomeUnknown, "outcome_unknown"),
    *((answer(status), OutcomeUnknown, "outcome_unknown") for status in (404, 408, 409, 410, 500, 501, 502, 504)),
    (b"garbage\r\n\r\n", OutcomeUnknown, "outcome_unknown"),
    (b"HTTP/1.1 abc\r\n\r\n", OutcomeUnknown, "outcome_unknown"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", OutcomeUnknown, "outcome_unknown"),
]


@pytest.mark.parametrize(("says", "kind", "code"), ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_means_what_options_list_and_else_what_the_promises_say(
    says: bytes, kind: type, code: str | None
) -> None:
    with Gateway(says) as gateway:
        result = outcome(make(gateway))

        assert type(result) is kind
        assert (result.provider_message_id if isinstance(result, Accepted) else result.error_code) == code
        assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    ("given", "least", "most"),
    [
        (None, None, None),
        ("7", 7, 7),
        ("-5", 1, 1),
        ("0", 1, 1),
        ("1000000000", 900, 900),
        ("inf", None, None),
        ("soon", None, None),
        ("9" * 5000, None, None),
        ("Mon, 99 Foo 2025 00:00:00 GMT", None, None),
        (formatdate(time.time() - 3600, usegmt=True), 1, 1),
        (formatdate(time.time() + 24 * 3600, usegmt=True), 900, 900),
    ],
)
def test_retry_after_is_obeyed_within_one_second_and_fifteen_minutes(
    given: str | None, least: float | None, most: float | None
) -> None:
    with Gateway(answer(429, **({"Retry_After": given} if given else {}))) as gateway:
        result = outcome(make(gateway))

    assert isinstance(result, Unavailable)
    if least is None or most is None:
        assert result.retry_after is None
    else:
        assert result.retry_after is not None
        assert least <= result.retry_after <= most


@pytest.mark.parametrize(
    ("date", "retry_after", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:37 GMT", 120),  # a clock is wrong: theirs or ours
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:51:37 GMT", 120),  # RFC 9110, 5.6.7: the old forms
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:51:37 1994", 120),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:37 -0000", 120),
        ("yesterday", formatdate(time.time() + 3600 * 24, usegmt=True), 900),
    ],
)
def test_a_moment_in_retry_after_is_counted_from_the_servers_own_date(
    monkeypatch: pytest.MonkeyPatch, date: str, retry_after: str, seconds: float
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        with Gateway(answer(503, Date=date, Retry_After=retry_after)) as gateway:
            result = outcome(make(gateway))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert isinstance(result, Unavailable)
    assert result.retry_after == seconds


TEXT_RULES = {
    "accepted": [{"status": [200, 202], "matches": "^0: "}, {"status": [200], "matches": "^OK"}],
    "rejected": [{"status": [200], "matches": "^ERR 1"}, {"status": [200], "matches": "^ERR 2"}],
    "id": {"matches": r"id=(\w+)"},
}


@pytest.mark.parametrize(
    ("options", "says", "expected"),
    [
        (TEXT_RULES, answer(202, "0: Accepted id=77"), Accepted("77")),
        (TEXT_RULES, answer(200, "OK id=78\n"), Accepted("78")),
        (TEXT_RULES, answer(200, "OK"), Accepted(None)),
        (TEXT_RULES, answer(200, "ERR 2 no such number"), Rejected),
        (TEXT_RULES, answer(200, "ERR 9"), OutcomeUnknown),
        # What reads the body goes before what knows the status only; equals, nobody can tell.
        ({"accepted": {"status": [200]}}, answer(200, '{"status": "rejected"}'), Rejected),
        ({"accepted": {"status": [200]}}, answer(200, '{"status": "fine"}'), Accepted(None)),
        ({"rejected": {"status": [200]}}, YES, Accepted("abc-1")),
        ({"rejected": OPTIONS["accepted"]}, YES, OutcomeUnknown),
        ({"accepted": {"status": [200]}, "rejected": {"status": [200]}}, YES, OutcomeUnknown),
        # JSON tells true, 1 and "1" apart; a pointer walks lists and escaped names.
        ({"accepted": {"status": [200], "pointer": "/ok", "equals": 1}}, answer(200, '{"ok": true}'), OutcomeUnknown),
        ({"accepted": {"status": [200], "pointer": "/ok", "equals": 1}}, answer(200, '{"ok": "1"}'), OutcomeUnknown),
        (
            {"accepted": {"status": [200], "pointer": "/ok", "equals": True}},
            answer(200, '{"ok": true}'),
            Accepted(None),
        ),
        ({"accepted": {"status": [200], "pointer": "/e", "equals": None}}, answer(200, '{"e": null}'), Accepted(None)),
        ({"accepted": {"status": [200], "pointer": "/e", "equals": None}}, answer(200, "{}"), OutcomeUnknown),
        (
            {"accepted": {"status": [200], "pointer": "/m/0/a~1b", "equals": 0}, "id": "/m/0/~0id"},
            answer(200, '{"m": [{"a/b": 0, "~id": 5}]}'),
            Accepted("5"),
        ),
    ],
)
def test_rules_match_status_and_body(options: dict[str, Any], says: bytes, expected: Any) -> None:
    with Gateway(says) as gateway:
        result = outcome(make(gateway, **options))

    assert result == expected if isinstance(expected, Accepted) else type(result) is expected
