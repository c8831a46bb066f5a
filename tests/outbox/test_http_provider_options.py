"""Mistakes in OPTIONS are told at start, in a sentence; the examples of the API's page are none."""

from typing import Any

import pytest

from outbox.providers.http import Provider

GOOD: dict[str, Any] = {
    "url": "https://gateway.example/sms",
    "json": {"to": "{recipient}", "text": "{text}"},
    "accepted": {"status": [200]},
}


def test_the_documented_example_is_understood() -> None:
    provider = Provider(
        "acme",
        url="https://gateway.example/sms",
        method="POST",
        headers={},
        query={},
        form=None,
        auth=["user", "password"],
        timeout_s=10,
        json={
            "to": "{recipient}",
            "text": "{text}",
            "from": "{sender_id}",
            "reference": "{reference}",
            "receipt": "{receipt_url}",
        },
        accepted={"status": [200], "pointer": "/status", "equals": "accepted"},
        rejected={"status": [400], "pointer": "/status", "equals": "rejected"},
        id="/id",
        receipt_token="a-secret-path-segment",
        receipt={
            "reference": "/reference",
            "id": "/id",
            "status": "/status",
            "delivered": ["delivered"],
            "undelivered": ["failed"],
            "in_transit": ["sent"],
        },
    )

    assert provider.timeout_s == 10


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ulr": "x"}, "ulr"),
        ({"url": None}, "address of the gateway"),
        ({"url": "ftp://gateway.example/"}, "http:// or https://"),
        ({"url": "https://"}, "http:// or https://"),
        ({"url": "https://user:pass@gateway.example/"}, "auth"),
        ({"url": "https://gateway.example/{text}"}, "placeholders"),
        ({"url": "https://gateway.example:99999/"}, ""),
        ({"method": "DELETE"}, "GET, POST"),
        ({"form": {"to": "{recipient}"}}, "not both"),
        ({"form": {"a": True}, "json": None}, "form"),
        ({"query": ["a"]}, "query"),
        ({"json": {"to": "{recipent}", "text": "{text}"}}, "recipent"),
        ({"json": {"to": {"deep": ["{recipent}"]}, "text": "{text}"}}, "recipent"),
        ({"json": {"to": "{recipient}"}}, "{text}"),
        ({"json": {"text": "{text}"}}, "{recipient}"),
        ({"json": {"to": "{recipient}", "text": "{text}", "n": float("nan")}}, "No request"),
        ({"json": {"to": "{recipient}", "text": "{text}", "back": "{receipt_url}"}}, "receipt_token"),
        ({"receipt_token": "a/b"}, "receipt_token"),
        ({"receipt_token": ""}, "receipt_token"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "X-A"),
        ({"headers": {"X A": "a"}}, "X A"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "twice"),
        ({"headers": {"Content-Length": "5"}}, "Content-Length"),
        ({"headers": {"Authorization": "Bearer x"}, "auth": ["a", "b"]}, "not both"),
        ({"auth": "user:password"}, "auth"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": "10"}, "timeout_s"),
        ({"timeout_s": True}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"accepted": None}, "accepted"),
        ({"accepted": []}, "accepted"),
        ({"accepted": "200"}, "accepted"),
        ({"accepted": {"pointer": "/a", "equals": 1}}, "status"),
        ({"accepted": {"status": 200}}, "status"),
        ({"accepted": {"status": [True]}}, "status"),
        ({"accepted": {"status": [200], "pointer": "/a"}}, "equals"),
        ({"accepted": {"status": [200], "equals": 1}}, "pointer"),
        ({"accepted": {"status": [200], "pointer": "a", "equals": 1}}, "JSON pointer"),
        ({"accepted": {"status": [200], "pointer": "/~2", "equals": 1}}, "JSON pointer"),
        ({"accepted": {"status": [200], "pointer": "/a", "equals": 1, "matches": "x"}}, "matches"),
        ({"accepted": {"status": [200], "matches": "("}}, "regular expression"),
        ({"accepted": [{"status": [200]}, {"status": [201], "equal": 1}]}, "equal"),
        ({"rejected": {"status": []}}, "rejected"),
        ({"id": "id"}, "JSON pointer"),
        ({"id": {"matches": "no group"}}, "one group"),
        ({"id": {"match": "(x)"}}, "id"),
        ({"receipt": "x"}, "receipt"),
        ({"receipt": {"status": "/s", "delivred": ["x"]}}, "delivred"),
        ({"receipt": {"reference": "/r"}}, "status"),
        ({"receipt": {"status": 5}}, "status"),
        ({"receipt": {"status": "/~"}}, "JSON pointer"),
        ({"receipt": {"status": "s", "delivered": "yes"}}, "delivered"),
        ({"receipt": {"status": "s", "delivered": ["1"], "undelivered": [1]}}, "both"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Provider("acme", **{**GOOD, **changed})

    assert told in str(caught.value)
