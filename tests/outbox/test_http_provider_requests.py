"""What the generic HTTP provider sends, and that neither errors nor logs repeat it."""

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from outbox.providers.base import Message, ProviderError, Rejected
from tests.outbox.gateway import YES, Gateway, answer, make, outcome, reset


def test_a_request_holds_the_message_where_the_template_says(settings: Any) -> None:
    settings.PUBLIC_URL = "https://sms.example"
    tricky = "{reference} {text} \\1 %s {{7*7}} é€😀 \n&=\"'"
    message = Message("019ab3c2", "+254711000001", tricky, "MY BRAND", "UCS-2", 1)
    with Gateway(YES) as gateway:
        outcome(
            make(
                gateway,
                headers={"X-Reference": "ref {reference}", "X-Sender": "{sender_id}"},
                query={"to": "{msisdn}", "c": "{encoding}", "n": 5},
                json={
                    "a": [{"text": "{text}"}, 1, None, True],
                    "to": "{recipient}",
                    "back": "{receipt_url}",
                },
                encoding={"UCS-2": "2"},
                auth=["üser", "pass:word"],
                receipt_token="s3cret",
            ),
            message,
        )
        request = gateway.requests[0]

    assert parse_qs(urlsplit(request.target).query) == {"to": ["254711000001"], "c": ["2"], "n": ["5"]}
    assert json.loads(request.body) == {
        "a": [{"text": tricky}, 1, None, True],
        "to": "+254711000001",
        "back": "https://sms.example/api/providers/acme/receipts/s3cret?reference=019ab3c2",
    }
    assert request.headers["x-reference"] == "ref 019ab3c2"
    assert request.headers["x-sender"] == "MY BRAND"
    assert request.headers["authorization"] == "Basic w7xzZXI6cGFzczp3b3Jk"
    assert request.headers["content-type"] == "application/json"


def test_without_a_word_of_the_gateways_own_an_encoding_has_ours() -> None:
    with Gateway(YES) as gateway:
        provider = make(gateway, query={"e": "{encoding}"}, encoding={"UCS-2": "unicode"})
        outcome(provider, Message("1", "+254711000001", "a", "X", "GSM-7", 1))
        outcome(provider, Message("2", "+254711000001", "я", "X", "UCS-2", 1))

    assert [parse_qs(urlsplit(request.target).query)["e"] for request in gateway.requests] == [["GSM-7"], ["unicode"]]


def test_a_form_is_encoded_and_a_missing_sender_id_left_out() -> None:
    form = {"to": "{recipient}", "text": "{text}", "from": "{sender_id}", "note": "by {sender_id}"}
    with Gateway(YES) as gateway:
        outcome(make(gateway, json=None, form=form), Message("1", "+254711000001", "a&b=c é", "", "GSM-7", 1))
        request = gateway.requests[0]

    assert parse_qs(request.body.decode()) == {"to": ["+254711000001"], "text": ["a&b=c é"], "note": ["by "]}
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


def test_a_get_request_carries_the_message_in_its_query() -> None:
    with Gateway(YES) as gateway:
        outcome(make(gateway, json=None, method="GET", query={"to": "{msisdn}", "text": "{text}"}))
        request = gateway.requests[0]

    assert (request.method, request.body) == ("GET", b"")
    assert parse_qs(urlsplit(request.target).query) == {"to": ["254711000001"], "text": ["Your code is 4321"]}


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", " a", "\ud800"])
def test_a_text_that_no_header_can_hold_is_rejected_before_anything_leaves(text: str) -> None:
    with Gateway(YES) as gateway:
        provider = make(gateway, headers={"X-Text": "{text}"})

        assert type(outcome(provider, Message("1", "+254711000001", text, "", "GSM-7", 1))) is Rejected
        assert gateway.connections == 0


@pytest.mark.parametrize(
    "says",
    [answer(500, "Your code is 4321 +254711000001"), b"Your code is 4321 254711000001", reset,
     answer(302, Location="http://x.example/?to=254711000001&text=Your+code+is+4321"),
     b"HTTP/1.1 200 OK\r\nbad header Your code is 4321\r\n\r\n"],
)  # fmt: skip
def test_neither_errors_nor_logs_hold_numbers_texts_or_passwords(
    caplog: pytest.LogCaptureFixture, says: bytes | Callable[[socket.socket], object]
) -> None:
    caplog.set_level("DEBUG")
    with Gateway(says) as gateway:
        secrets = {"query": {"to": "{msisdn}", "text": "{text}"}, "auth": ["user", "hunter2"]}
        result = outcome(make(gateway, method="GET", json=None, timeout_s=0.5, **secrets))

    assert isinstance(result, ProviderError)
    assert result.__cause__ is None
    assert result.__context__ is None
    for canary in ("4321", "254711000001", "hunter2"):
        assert canary not in f"{result} {result!r} {caplog.text}"
