"""Nobody has us call what is not public: neither by the address he gives nor by where its name leads later."""

import socket
import threading

import pytest
import requests
from django.core.exceptions import ValidationError

from smsportal.calls import Caller, CallFailed
from smsportal.webhooks import addresses
from smsportal.webhooks.deliveries import Answer, Delivery, tell
from tests.smsportal.receiver import receiver


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.1.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1"),
        *(
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
        ),
        *("", "nonsense", "127.0.0.1.evil"),
    ],
)
def test_an_address_that_is_not_public_is_none_to_connect_to(address):
    assert not addresses.is_public(address)
    assert not addresses.may_connect(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_a_public_address_is_one(address):
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1/", "https://127.1/", "https://0/", "https://2130706433/", "https://0x7f000001/"),
        *("https://0177.0.0.1/", "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/"),
        *(
            "https://169.254.169.254/latest/meta-data/",
            "https://10.0.0.1/",
            "https://100.64.0.1/",
            "https://192.168.0.1/",
        ),
        *("https://localhost/", "https://localhost./", "https://LOCALHOST/", "https://user:pass@1.1.1.1/"),
        *("https://1.1.1.1:5432/", "https://1.1.1.1:22/", "https://1.1.1.1:99999/", "https://1.1.1.1:0/"),
        *("file:///etc/passwd", "gopher://1.1.1.1/", "ftp://1.1.1.1/", "http://1.1.1.1/", "//1.1.1.1/", "1.1.1.1", ""),
        *("https://", "https:///path", "https://1.1.1.1/#x", "https://1.1.1.1/a b", "https://1.1.1.1/\r\nX: y"),
        *("https://1.1.1.1\\@127.0.0.1/", "https://exämple.com/", "https://[1.1.1.1/", "https://no-such-host.invalid/"),
        "https://1.1.1.1/" + "x" * 2000,
    ],
)
def test_a_url_that_leads_elsewhere_than_to_a_public_https_server_is_refused(url):
    with pytest.raises(ValidationError):
        addresses.clean_url(url)


def test_a_name_server_that_hangs_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(addresses, "LOOK_UP_S", 0.05)
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(30) and [])

    with pytest.raises(ValidationError, match="cannot be resolved"):
        addresses.clean_url("https://slow.example/")

    assert not over.is_set()
    over.set()


@pytest.mark.parametrize("url", ["https://1.1.1.1/hook?a=b", "https://1.1.1.1:8443/", "https://[2606:4700::1111]/"])
def test_a_public_url_is_taken_as_it_is(url):
    assert addresses.clean_url(url) == url


def delivery(url):
    return Delivery("0", "0", "0", url, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "{}", 1)


def test_a_name_that_leads_to_us_by_the_time_of_the_call_is_not_connected_to(monkeypatch):
    """DNS rebinding: asked again, the name has another address."""
    with receiver() as mine:
        port = int(mine.url.split(":")[2].split("/")[0])
        rebound = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: rebound)

        answer = tell(delivery(f"http://rebound.example:{port}/"))

    assert answer.status is None
    assert "no public host" in str(answer.error)
    assert mine.requests == []


def test_of_several_addresses_only_the_public_ones_are_tried(monkeypatch):
    tried = []

    def connect(sock, address):
        tried.append(address[0])
        raise ConnectionRefusedError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443)) for ip in ("10.0.0.1", "192.0.2.9", "1.1.1.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    monkeypatch.setattr(socket.socket, "connect", connect)

    assert tell(delivery("https://hooks.example/")).status is None
    assert tried == ["1.1.1.1"]


def test_a_redirect_is_not_followed_and_its_answer_not_kept(settings):
    settings.WEBHOOKS_TO_PRIVATE_ADDRESSES = True
    with receiver() as mine:

        def redirect(handler):
            handler.send_response(307)
            handler.send_header("Location", mine.url + "/inside")
            handler.send_header("Content-Length", "6")
            handler.end_headers()
            handler.wfile.write(b"secret")

        mine.says = redirect
        answer = tell(delivery(mine.url))

    assert answer == Answer(307)
    assert len(mine.requests) == 1


def test_a_provider_may_be_in_ones_own_network():
    with receiver() as mine:
        assert Caller().call(requests.Request("POST", mine.url, data=b"x").prepare(), 5).status == 200
        with pytest.raises(CallFailed):
            Caller(may_connect=addresses.is_public).call(requests.Request("POST", mine.url, data=b"x").prepare(), 5)
