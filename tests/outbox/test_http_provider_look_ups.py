"""The generic HTTP provider asks a gateway for a message's status, as OPTIONS say, and believes only what they list."""

import json

import pytest

from outbox.providers.base import Inquiry, NeverReceived, OutcomeUnknown, ProviderError, Unavailable
from tests.outbox.gateway import Gateway, answer, make

INQUIRY = Inquiry("019ab3c2-0001", "+254711000001", "abc-1", 1)
RECEIPT = {
    "reference": "/reference",
    "id": "/id",
    "status": "/status",
    "delivered": ["delivered"],
    "undelivered": ["failed"],
    "in_transit": ["sent"],
}


def asked(gateway, inquiry=INQUIRY, **look_up):
    options = {"url": gateway.url + "/{reference}", "never_received": {"status": [404]}} | look_up
    try:
        return make(gateway, receipt=RECEIPT, look_up=options).look_up(inquiry)
    except ProviderError as error:
        return error


def test_the_request_is_made_as_options_say():
    with Gateway(answer(200, "{}")) as gateway:
        asked(
            gateway,
            url=gateway.url + "/{reference}/{id}",
            query={"to": "{msisdn}"},
            headers={"X-Of": "{reference}"},
        )
        asked(gateway, url=gateway.url, method="POST", json={"ids": ["{id}"], "to": "{recipient}"})

    first, second = gateway.requests
    assert (first.method, first.target) == ("GET", "/sms/019ab3c2-0001/abc-1?to=254711000001")
    assert first.headers["x-of"] == "019ab3c2-0001"
    assert (second.method, json.loads(second.body)) == ("POST", {"ids": ["abc-1"], "to": "+254711000001"})


def test_an_id_in_the_address_cannot_lead_elsewhere():
    with Gateway(answer(200, "{}")) as gateway:
        asked(gateway, Inquiry("r", "+254711000001", "../a?b#c", 1), url=gateway.url + "/{id}")

    assert gateway.requests[0].target == "/sms/..%2Fa%3Fb%23c"


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, '{"status": "delivered", "id": "x"}', "delivered"),
        (200, '{"status": "failed"}', "undelivered"),
        (200, '{"status": "sent"}', "in_transit"),
        (200, '{"status": "never heard of"}', None),
        (200, "{}", None),
        (200, "<html>delivered</html>", None),
        (200, '{"status": "deliv', None),
        (500, '{"status": "delivered"}', None),
        (302, '{"status": "delivered"}', None),
        (404, '{"status": "delivered"}', NeverReceived()),
        (403, "", None),
    ],
)
def test_only_what_options_list_is_believed(status, body, found):
    with Gateway(answer(status, body)) as gateway:
        said = asked(gateway)

    assert (said.status if hasattr(said, "status") else said) == found


def test_an_answer_that_fits_both_says_nothing():
    with Gateway(answer(200, '{"status": "delivered"}')) as gateway:
        assert asked(gateway, never_received={"status": [200]}) is None


def test_without_the_gateways_id_a_request_that_needs_it_is_not_made():
    with Gateway(answer(200, "{}")) as gateway:
        inquiry = Inquiry("019ab3c2-0001", "+254711000001", None, 1)
        assert asked(gateway, inquiry, url=gateway.url + "/{id}") is None

    assert gateway.requests == []


def test_a_gateway_that_does_not_answer_is_no_answer():
    with Gateway(lambda sock: None) as gateway:
        assert isinstance(asked(gateway), OutcomeUnknown)
    assert isinstance(asked(gateway), Unavailable)


def test_answers_may_be_read_otherwise_than_receipts():
    with Gateway(answer(200, '{"messages": [{"state": 2}]}')) as gateway:
        said = asked(gateway, answer={"status": "/messages/0/state", "delivered": [2]})

    assert said.status == "delivered"


@pytest.mark.parametrize(
    ("look_up", "told"),
    [
        ("x", "look_up: must be an object"),
        ({"ulr": "x"}, "look_up: does not know ulr"),
        ({}, "look_up: url"),
        ({"url": "https://gateway.example/"}, "look_up: the request must hold {reference} or {id}"),
        ({"url": "https://gateway.example/{msisdn}", "query": {"id": "{id}"}}, "look_up: url"),
        ({"url": "https://{id}.example/"}, "look_up: url"),
        ({"url": "https://gateway.example/{id}", "query": {"text": "{text}"}}, "look_up: No such placeholder: {text}"),
        ({"url": "https://gateway.example/{id}", "after_s": 0}, "look_up: after_s"),
        ({"url": "https://gateway.example/{id}", "never_received_after_s": True}, "look_up: never_received_after_s"),
        ({"url": "https://gateway.example/{id}", "found": {}}, "look_up: found"),
        ({"url": "https://gateway.example/{id}", "answer": {}}, "look_up: answer"),
        ({"url": "https://gateway.example/{id}"}, "look_up: say in `answer`"),
    ],
)
def test_mistakes_in_options_are_told(look_up, told):
    receipt = None if "say in" in told else RECEIPT
    with pytest.raises(ValueError, match="look_up") as error:
        make("https://gateway.example/", receipt=receipt, look_up=look_up)

    assert told in str(error.value)


def test_a_provider_without_the_option_cannot_be_asked():
    provider = make("https://gateway.example/")

    assert provider.look_up_after_s is None
    assert provider.look_up(INQUIRY) is None
