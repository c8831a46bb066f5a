"""Callbacks of a plain HTTP gateway: authentic by the secret in their address, read as OPTIONS describe them."""

import json
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from outbox.providers.base import DeliveryReceipt, ReceiptRefused
from outbox.providers.http import Provider

TOKEN = "a-secret-path-segment"
STATUSES = {"delivered": ["delivered", 1], "undelivered": ["failed", "-2"], "in_transit": ["sent"]}
POINTERS = {"reference": "/reference", "id": "/message/id", "status": "/status", "details": "/error", **STATUSES}
FIELDS = {"reference": "ref", "id": "msgid", "status": "state", **STATUSES}


def provider(receipt: dict[str, Any] | None = None, token: str | None = TOKEN) -> Provider:
    return Provider(
        "acme",
        url="https://gateway.example/",
        json={"to": "{recipient}", "text": "{text}"},
        accepted={"status": [200]},
        receipt_token=token,
        receipt=receipt,
    )


def posted(body: Any, query: str = "", content_type: str = "application/json") -> HttpRequest:
    data = body if isinstance(body, bytes | str) else json.dumps(body)
    return RequestFactory().post(f"/receipts{query}", data, content_type=content_type)


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("receipt", "request_", "expected"),
    [
        (
            POINTERS,
            posted({"reference": "r1", "message": {"id": 7}, "status": "delivered"}),
            ("delivered", "r1", "7", None),
        ),
        (POINTERS, posted({"reference": "r1", "status": 1}), ("delivered", "r1", None, None)),
        (POINTERS, posted({"reference": "r1", "status": -2, "error": "absent"}), ("undelivered", "r1", None, "absent")),
        (POINTERS, posted({"reference": "r1", "status": "sent"}), ("in_transit", "r1", None, None)),
        (POINTERS, posted({"reference": "r1", "status": "DELIVERED"}), ("unrecognised", "r1", None, None)),
        (POINTERS, posted({"reference": "r1", "status": True}), ("unrecognised", "r1", None, None)),
        (POINTERS, posted({"reference": "r1", "status": ["delivered"]}), ("unrecognised", "r1", None, None)),
        (POINTERS, posted({"reference": "r1"}), ("unrecognised", "r1", None, None)),
        (POINTERS, posted({"status": "delivered"}, "?reference=ours"), ("delivered", "ours", None, None)),
        (
            POINTERS,
            posted({"reference": "", "status": "failed"}, "?reference=ours"),
            ("undelivered", "ours", None, None),
        ),
        (POINTERS, posted({"reference": "x" * 200, "status": 1}, "?reference=ours"), ("delivered", "ours", None, None)),
        (POINTERS, posted({"message": {"id": "a\x00b\ud800"}, "status": 1}), ("delivered", None, "ab", None)),
        (POINTERS, posted(b'{"status": 1, "status": "failed", "reference": "r"}'), ("undelivered", "r", None, None)),
        (FIELDS, posted("ref=r2&msgid=9&state=1", content_type=FORM), ("delivered", "r2", "9", None)),
        (FIELDS, posted("state=sent", "?reference=ours", FORM), ("in_transit", "ours", None, None)),
        (FIELDS, RequestFactory().get("/r?reference=ours&msgid=9&state=failed"), ("undelivered", "ours", "9", None)),
        (FIELDS, RequestFactory().get("/r?ref=a&state=sent&state=failed"), ("undelivered", "a", None, None)),
        (FIELDS, RequestFactory().post("/r", {"ref": "m", "state": "delivered"}), ("delivered", "m", None, None)),
    ],
)
def test_a_receipt_is_read_as_options_describe_it(
    receipt: dict[str, Any], request_: HttpRequest, expected: tuple[str | None, ...]
) -> None:
    read = provider(receipt).read_receipt(request_, TOKEN)

    assert (read.status, read.reference, read.provider_message_id, read.details) == expected


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "é\ud800", TOKEN.upper()])
def test_a_callback_without_the_secret_is_not_the_providers(token: str) -> None:
    with pytest.raises(ReceiptRefused) as caught:
        provider(POINTERS).read_receipt(posted({"reference": "r", "status": 1}), token)

    assert not caught.value.authentic


@pytest.mark.parametrize("token", ["", "None", TOKEN])
def test_without_a_configured_secret_every_callback_is_refused(token: str) -> None:
    with pytest.raises(ReceiptRefused) as caught:
        provider(POINTERS, token=None).read_receipt(posted({"reference": "r", "status": 1}), token)

    assert not caught.value.authentic


@pytest.mark.parametrize(
    "request_",
    [
        posted(b""),
        posted(b"{"),
        posted(b"\xff\xfe{"),
        posted("<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><x>&e;</x>", content_type="text/xml"),
        posted("[" * 60_000),
        posted("[" * 900 + "]" * 900),
        posted([1, 2]),
        posted("null"),
        posted({"status": "delivered"}),
        posted({"reference": None, "status": "delivered", "message": {"id": {}}}),
        posted({"reference": "r", "status": 1, "x": "y" * 70_000}),
        posted(b"x" * 5_000_000),
        RequestFactory().put("/r", b"{}"),
        RequestFactory().get("/r"),
    ],
)
def test_what_no_receipt_can_be_made_of_is_refused(request_: HttpRequest) -> None:
    with pytest.raises(ReceiptRefused) as caught:
        provider(POINTERS).read_receipt(request_, TOKEN)

    assert caught.value.authentic


@pytest.mark.parametrize(
    "request_",
    [
        posted("a=1&" * 5000 + "ref=x", content_type=FORM),
        posted("ref=x", content_type=FORM + "; charset=utf-16"),
        posted("--x", content_type="multipart/form-data; boundary=x"),
        posted("--x", content_type="multipart/form-data"),
        posted("{}", content_type="application/json"),
    ],
)
def test_fields_that_cannot_be_read_are_refused(request_: HttpRequest) -> None:
    with pytest.raises(ReceiptRefused) as caught:
        provider(FIELDS).read_receipt(request_, TOKEN)

    assert caught.value.authentic


def test_a_long_callback_is_refused_whatever_django_would_take(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = None

    with pytest.raises(ReceiptRefused, match="too long"):
        provider(POINTERS).read_receipt(posted({"reference": "r", "status": 1, "x": "y" * 70_000}), TOKEN)


def test_without_a_description_a_callback_is_refused_as_authentic() -> None:
    with pytest.raises(ReceiptRefused) as caught:
        provider(None).read_receipt(posted({}), TOKEN)

    assert caught.value.authentic


def test_what_came_is_kept_bounded_and_fit_to_store() -> None:
    sent = {f"field{number}": "x" * 1000 for number in range(60)}
    first = {
        "reference": "r",
        "status": 1,
        "nul\x00": "a\x00\ud800b",
        "huge": 1e999,
        "nested": {"a": [1]},
        "none": None,
    }
    read = provider(POINTERS).read_receipt(posted({**first, **sent}), TOKEN)

    assert isinstance(read, DeliveryReceipt)
    assert len(read.raw) == 50
    assert max(len(value) for value in read.raw.values()) == 500
    assert read.raw["nul"] == "ab"
    assert read.raw["huge"] == "Infinity"
    assert read.raw["nested"] == '{"a": [1]}'
    assert "\x00" not in json.dumps(read.raw, ensure_ascii=False)
