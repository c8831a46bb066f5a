"""The pages in a real browser, with and without JavaScript, wide and narrow, by day and by night."""

import re
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from outbox import receipts, sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import DeliveryReceipt, OutcomeUnknown, Rejected
from smsportal.models import ApiKey
from tests.factories import SenderIdFactory

RECIPIENT = "+254711000001"
SCRIPTS = pytest.mark.parametrize("scripts", [True, False], ids=["with JavaScript", "without JavaScript"])


def drain():
    Dispatcher(concurrency=4).run(once=True)


def send(account, provider, error=None, **message):
    provider.error = error
    entry = sending.send(account.user, **{"recipient": RECIPIENT, "text": "Your parcel is here", **message})
    drain()
    provider.error = None
    return entry


@SCRIPTS
def test_a_message_is_composed_priced_and_sent(visit, account, provider, scripts):
    page = visit(java_script_enabled=scripts).log_in()
    page.get_by_role("link", name="New message").first.click()
    page.get_by_label("To", exact=True).fill("0711 000 001")
    page.get_by_label("Message", exact=True).fill("Habari\nya “leo”")
    if not scripts:
        page.get_by_role("button", name="Check price").click()
    expect(page.locator("#price")).to_contain_text("Costs 1.00 KES (1 × 1.00 KES). Leaves 9.00 KES available.")
    expect(page.locator("#price")).to_contain_text("left double quotation mark")
    page.get_by_role("button", name="Send", exact=True).click()

    expect(page.get_by_role("heading", level=1)).to_have_text(f"To {RECIPIENT}")
    expect(page.locator("#story")).to_contain_text("Waiting to be handed to a provider. 1.00 KES is held for it.")
    drain()
    if not scripts:
        page.get_by_role("link", name="Refresh").click()
    expect(page.locator(".state")).to_have_text("sent")  # with scripts, the page looks again by itself
    expect(page.locator("#story")).to_contain_text("1.00 KES was charged.")
    assert [message.text for message in provider.messages] == ["Habari\nya “leo”"]


@SCRIPTS
def test_a_failed_message_is_found_and_sent_again_after_a_question(visit, account, provider, scripts):
    send(account, provider, recipient="+254711000002")
    send(account, provider, Rejected("unknown subscriber"))
    page = visit(java_script_enabled=scripts).log_in()

    page.get_by_label("Status").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("tbody a").click()
    expect(page.locator("#story")).to_contain_text("Not sent. unknown subscriber")
    page.get_by_role("button", name=re.compile("Send again")).click()
    expect(page.get_by_role("main")).to_contain_text("0 of 3 used")
    page.get_by_role("button", name="Send again for 1.00 KES").click()

    expect(page.get_by_role("status")).to_contain_text("It is being sent again.")
    drain()
    page.reload()
    expect(page.locator(".state")).to_have_text("sent")
    assert Outbox.objects.get(recipient=RECIPIENT).retry_count == 1


@SCRIPTS
def test_a_key_is_made_rotated_and_revoked_on_a_narrow_screen(visit, account, scripts):
    page = visit(java_script_enabled=scripts, viewport={"width": 360, "height": 700}).log_in()
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("shop")
    for scope in ("billing: read", "settings: change"):
        page.get_by_label(scope).uncheck()
    page.get_by_role("button", name="Make the key").click()
    expect(page.locator("pre").first).to_have_text(re.compile(r"sms_[\w-]{43}"))
    expect(page.locator("pre").last).to_contain_text("curl -s")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    page.get_by_role("button", name="I have copied it").click()
    expect(page.get_by_role("row", name="shop")).to_contain_text("send, read")
    page.get_by_role("link", name="Rotate shop").click()
    page.get_by_role("button", name="Make the new key").click()
    page.get_by_role("button", name="I have copied it").click()
    page.get_by_role("link", name="Revoke shop").last.click()
    page.get_by_role("button", name="Revoke it").click()

    expect(page.locator(".state")).to_have_text(["works", "revoked"])
    new, old = ApiKey.objects.order_by("-pk")
    assert (old.state(), new.state(), new.scopes) == ("revoked", "works", ["send", "read"])


def test_a_double_click_sends_one_message(visit, account, provider):
    page = visit().log_in()
    page.goto("/outbox/new/")
    page.get_by_label("To", exact=True).fill(RECIPIENT)
    page.get_by_label("Message", exact=True).fill("Hello")
    page.get_by_role("button", name="Send", exact=True).dblclick()

    expect(page.get_by_role("heading", level=1)).to_have_text(f"To {RECIPIENT}")
    page.goto("/outbox/")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_the_log_looks_again_while_something_is_under_way(visit, account, provider):
    page = visit().log_in()
    sending.send(account.user, recipient=RECIPIENT, text="Hello")
    page.goto("/outbox/")
    expect(page.locator(".state")).to_have_text("pending")

    drain()

    expect(page.locator(".state")).to_have_text("sent")


def test_a_page_that_looks_again_after_the_session_ended_shows_the_log_in(visit, account, provider):
    visitor = visit()
    page = visitor.log_in()
    entry = sending.send(account.user, recipient=RECIPIENT, text="Hello")
    page.goto(f"/outbox/{entry.pk}/")

    visitor.context.clear_cookies()

    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    assert page.url.endswith(f"/login/?next=/outbox/{entry.pk}/")


@pytest.fixture
def addresses(account, provider):
    """Every page, with the longest things that can stand on it."""
    long = "W" * 64
    delivered = send(account, provider, text="W" * 300, tags=[long], message_id="W" * 128, custom_data={long: long * 9})
    receipts.apply("locmem", DeliveryReceipt("delivered", str(delivered.pk)))
    SenderIdFactory(user=account.user, name="A" * 11, reason="word " * 40)
    failed = send(account, provider, Rejected(long * 4), sender_id="A" * 11)
    unknown = send(account, provider, OutcomeUnknown("no answer"), tags=["OTP"])
    entries = [f"/outbox/{entry.pk}/" for entry in (delivered, failed, unknown)]
    rights = {"allowed_sender_ids": ["A" * 11] * 5, "allowed_ip_ranges": [f"{'2001:' * 7}1/128"] * 3}
    key, _ = ApiKey.issue(account.user, long, is_test=True, **rights)
    key.rotate()
    settings = ["/settings/", "/settings/sender-ids/"]
    settings += [f"/settings/keys/{page}/" for page in ("new", f"{key.pk}/rotate", f"{key.pk}/revoke")]
    outbox = ["/outbox/", "/outbox/?tag=none", "/outbox/new/", *entries, f"/outbox/{failed.pk}/resend/"]
    return [*outbox, *settings, "/api/errors"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 600, 900, 1440])
def test_no_page_scrolls_sideways_or_makes_an_error(visit, addresses, width, scheme):
    page = visit(viewport={"width": width, "height": 700}, color_scheme=scheme).log_in()
    for address in addresses:
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => +heading.tagName[1])")
        assert levels[0] == 1
        assert all(later - earlier <= 1 for earlier, later in pairwise(levels)), address
    page.context.clear_cookies()
    page.goto("/login/")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_apis_page_works_under_the_policy(visit):
    page = visit().log_in()
    page.goto("/api/docs")

    page.get_by_text("/api/sms/send").first.click()

    expect(page.get_by_text("recipientPhoneNumber").first).to_be_visible()


def test_the_keyboard_alone_is_enough_and_shows_where_it_is(visit, account, provider):
    page = visit().log_in()
    page.goto("/outbox/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    for _ in range(5):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
