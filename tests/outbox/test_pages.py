"""The pages: what their user sees and can do, and nobody else."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import ledger
from billing.models import Posting
from outbox import pages, receipts, sending
from outbox.dispatch import Dispatcher
from outbox.models import Outbox
from outbox.providers.base import DeliveryReceipt, OutcomeUnknown, Rejected
from tests.factories import PriceFactory, SenderIdFactory, UserFactory

RECIPIENT = "+254711000001"
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


def drain():
    Dispatcher(concurrency=4).run(once=True)


@pytest.fixture
def site(account, provider):
    """A browser in which `account`'s user is logged in."""
    client = Client()
    client.force_login(account.user)
    return client


@pytest.fixture
def entry(account):
    return sending.send(account.user, recipient=RECIPIENT, text="Your parcel is here")


@pytest.fixture
def failed(entry, provider):
    provider.error = Rejected("unknown subscriber")
    drain()
    provider.error = None
    entry.refresh_from_db()
    assert entry.status == "failed"
    return entry


def address(name, entry):
    return reverse(f"outbox:{name}", args=[entry.pk])


def question(site, entry):
    """The fields of the resend question, as the browser would post them."""
    return hidden_fields(site.get(address("resend", entry)))


def hidden_fields(response):
    text = response.content.decode()
    fields = (re.findall(r'(name|value)="([^"]*)"', tag) for tag in re.findall(r'<input type="hidden"[^>]*>', text))
    return {found["name"]: found["value"] for found in map(dict, fields) if found["name"] != "csrfmiddlewaretoken"}


def compose(site, **fields):
    once = hidden_fields(site.get("/outbox/new/"))["once"]
    return site.post("/outbox/new/", {"recipient": RECIPIENT, "text": "Hello", "once": once, **fields}, follow=True)


# --- whose pages they are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["list", "new", "detail", "resend"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_every_page_asks_a_stranger_to_log_in(entry, name, method):
    path = address(name, entry) if name in ("detail", "resend") else reverse(f"outbox:{name}")

    response = getattr(Client(), method)(path)

    assert response.status_code == 302
    assert response["Location"] == f"/login/?next={path}"


@pytest.mark.parametrize(("method", "name"), [("get", "detail"), ("get", "resend"), ("post", "resend")])
def test_anothers_message_answers_exactly_as_one_that_does_not_exist(entry, name, method):
    stranger = Client()
    stranger.force_login(UserFactory())

    def answer(outbox_id):
        form = {"once": uuid.uuid4(), "total_cost": "1"}
        response = getattr(stranger, method)(reverse(f"outbox:{name}", args=[outbox_id]), form)
        body = re.sub(rb'name="csrfmiddlewaretoken" value="[^"]*"', b"", response.content)  # masked anew each time
        return response.status_code, response.headers.get("Content-Type"), body

    assert answer(entry.pk) == answer(uuid.uuid4())
    assert answer(entry.pk)[0] == 404
    entry.refresh_from_db()
    assert entry.retry_count == 0


def test_the_log_shows_only_ones_own_messages(site, entry):
    other = ledger.account_of(UserFactory())
    ledger.top_up(other, Decimal(10), reason="payment")
    sending.send(other.user, recipient="+254722999999", text="Somebody else's")

    body = site.get("/outbox/").content.decode()

    assert RECIPIENT in body
    assert "+254722999999" not in body
    assert "Somebody else" not in body


def test_the_start_page_leads_to_the_log_and_logging_out_needs_a_post(site):
    assert site.get("/")["Location"] == "/outbox/"
    assert site.get("/logout/").status_code == 405
    assert site.post("/logout/")["Location"] == "/login/"
    assert site.get("/outbox/").status_code == 302


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example/", "javascript:alert(1)", "/\\evil.example"]
)
def test_logging_in_leads_nowhere_else(account, target):
    account.user.set_password("correct horse")
    account.user.save()

    response = Client().post("/login/", {"username": "amina", "password": "correct horse", "next": target})

    assert (response.status_code, response["Location"]) == (302, "/outbox/")


def test_staff_and_nobody_else_are_led_to_the_admin(site, account):
    assert b"/admin/" not in site.get("/outbox/").content
    account.user.is_staff = True
    account.user.save()
    assert b"/admin/" in site.get("/outbox/").content


# --- the log ----------------------------------------------------------------------------------------------------------


def rows(response):
    return re.findall(r'<tr>.*?<td class="to"><bdi>([^<]*)</bdi>', response.content.decode(), re.DOTALL)


@pytest.fixture
def one_of_each(account, provider):
    """Five messages, of the five states a person tells apart; by state."""
    user, entries = account.user, {}
    for number, (state, error) in enumerate(
        {
            "sent": None,
            "delivered": None,
            "failed": Rejected("no"),
            "unknown": OutcomeUnknown("no answer"),
            "pending": None,
        }.items()
    ):
        provider.error = error
        entries[state] = sending.send(user, recipient=f"+25471100000{number}", text="Hello", tags=[f"tag-{state}"])
        if state != "pending":
            drain()
    receipts.apply("locmem", DeliveryReceipt("delivered", str(entries["delivered"].pk)))
    return entries


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("", ["pending", "unknown", "failed", "delivered", "sent"]),
        ("status=sent", ["delivered", "sent"]),
        ("status=delivered", ["delivered"]),
        ("status=failed", ["failed"]),
        ("status=unknown", ["unknown"]),
        ("status=pending", ["pending", "unknown"]),
        ("recipient=0711000002", ["failed"]),
        ("recipient=%2B254711000002", ["failed"]),
        ("recipient=0711", []),
        ("tag=tag-sent", ["sent"]),
        ("tag=tag", []),
        ("status=failed&tag=tag-sent", []),
        ("status=nonsense", []),
        ("since=2026-99-99", []),
        ("until=9999-12-31", []),
        ("tag=%00", []),
    ],
)
def test_the_log_is_filtered_and_shows_the_newest_first(site, one_of_each, asked, shown):
    response = site.get(f"/outbox/?{asked}")

    assert response.status_code == 200
    assert rows(response) == [one_of_each[state].recipient for state in shown]


def test_days_are_whole_days_in_utc(site, account):
    for day, hour in ((1, 23), (2, 0), (2, 23), (3, 0)):
        entry = sending.send(account.user, recipient=f"+2547110{day}{hour:02}00", text="Hello")
        Outbox.objects.filter(pk=entry.pk).update(created_at=datetime(2027, 5, day, hour, 59 * (hour > 0), tzinfo=UTC))

    assert rows(site.get("/outbox/?since=2027-05-02&until=2027-05-02")) == ["+254711022300", "+254711020000"]
    assert rows(site.get("/outbox/?since=2027-05-03")) == ["+254711030000"]
    assert rows(site.get("/outbox/?until=2027-05-01")) == ["+254711012300"]


def test_pages_go_back_and_forth_and_keep_the_filter(site, account, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    for number in range(6):
        sending.send(
            account.user, recipient=f"+25471100000{number}", text="Hello", tags=["odd" if number % 2 else "even"]
        )
        sending.send(account.user, recipient="+254711000009", text="Hello") if number == 0 else None

    def follow(response, direction):
        link = re.search(rf'<a href="([^"]*)" rel="{direction}"', response.content.decode())
        return link and site.get("/outbox/" + link[1].replace("&amp;", "&"))

    first = site.get("/outbox/?tag=even&status=pending")
    assert [number[-1] for number in rows(first)] == ["4", "2"]
    assert follow(first, "prev") is None
    second = follow(first, "next")
    assert [number[-1] for number in rows(second)] == ["0"]
    assert follow(second, "next") is None
    assert rows(follow(second, "prev")) == rows(first)
    assert site.get("/outbox/?before=nonsense").status_code == 404


def test_the_page_before_the_last_one_holds_its_neighbours_not_the_newest(site, account, monkeypatch):
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    entries = [sending.send(account.user, recipient=f"+25471100000{number}", text="Hello") for number in range(6)]

    response = site.get(f"/outbox/?after={entries[1].pk}")

    assert [number[-1] for number in rows(response)] == ["3", "2"]


def test_the_log_asks_the_database_as_often_for_many_messages_as_for_one(
    site, account, entry, django_assert_num_queries
):
    ledger.top_up(account, Decimal(100), reason="payment")
    for path, queries in (("/outbox/", 4), (address("detail", entry), 7)):
        site.get(path)
        with django_assert_num_queries(queries):  # session, user, account; then the log, or the message and its parts
            site.get(path)
    for _ in range(60):
        sending.send(account.user, recipient=RECIPIENT, text="Hello", tags=["a"])
    with django_assert_num_queries(4):
        site.get("/outbox/")


def test_an_empty_log_says_how_to_begin_and_an_empty_search_how_to_widen_it(site):
    assert b"Send the first one" in site.get("/outbox/").content
    assert b"No message matches" in site.get("/outbox/?tag=none").content


def test_a_one_time_password_is_hidden_in_the_log_and_behind_a_click_on_its_page(site, account):
    entry = sending.send(account.user, recipient=RECIPIENT, text="Your code is 4321", tags=["otp"])

    assert b"4321" not in site.get("/outbox/").content
    shown = site.get(address("detail", entry)).content.decode()
    assert re.search(r"<details><summary>[^<]*</summary>[^/]*Your code is 4321", shown)


# --- one message ------------------------------------------------------------------------------------------------------


def test_a_message_shows_its_attempts_its_money_and_its_receipts(site, failed, provider):
    sending.resend(failed)
    drain()
    receipts.apply("locmem", DeliveryReceipt("delivered", str(failed.pk)))

    body = site.get(address("detail", failed)).content.decode()

    assert "rejected" in body
    assert "unknown subscriber" in body
    assert "accepted" in body
    assert "locmem-2" in body
    assert re.findall(r'data-label="What">([^<]*)<', body) == ["held", "given back", "held", "charged"]
    assert re.findall(r'data-label="Balance after">([^<]*)<', body) == [
        "10.00 KES",
        "10.00 KES",
        "10.00 KES",
        "9.00 KES",
    ]
    assert "1 unit × 1.00 KES = <strong>1.00 KES</strong>, charged" in body
    assert "changed the message" in body


def test_an_unknown_outcome_is_explained_and_offers_no_resend(site, one_of_each):
    body = site.get(address("detail", one_of_each["unknown"])).content.decode()

    assert "Nobody knows yet whether this message was sent." in body
    assert "It is not sent again by itself" in body
    assert "do not send it again in another way" in body
    assert "1.00 KES stays held" in body
    entry = Outbox.objects.get(pk=one_of_each["unknown"].pk)
    assert f"{entry.unknown_until():%H:%M:%S}" in body
    assert "/resend/" not in body


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("pending", "Waiting</strong> to be handed to a provider. 1.00 KES is held"),
        ("sent", "Accepted by the provider"),
        ("delivered", "Delivered</strong> to the handset"),
        ("failed", "1.00 KES was held and has been given back."),
    ],
)
def test_each_state_is_explained_in_plain_words(site, one_of_each, state, says):
    body = site.get(address("detail", one_of_each[state])).content.decode()

    assert says in re.sub(r"\s+", " ", body)
    assert ("/resend/" in body) == (state == "failed")


def test_a_message_looks_again_by_itself_only_while_something_may_change(site, one_of_each):
    def triggers(state):
        body = site.get(address("detail", one_of_each[state])).content.decode()
        return re.findall(r'hx-trigger="([^"]*)"', body)

    assert triggers("pending") == ["every 2s"]
    assert triggers("unknown") == ["every 20s"]
    assert triggers("failed") == triggers("delivered") == []


# --- send it again ----------------------------------------------------------------------------------------------------


def test_resend_asks_first_and_says_what_it_costs(site, failed):
    PriceFactory(prefix="254", price_per_segment=Decimal("2.5"), effective_from=timezone.now())
    before = (Posting.objects.count(), Outbox.objects.values().get())

    body = site.get(address("resend", failed)).content.decode()

    assert "1 × 1.00 KES = 1.00 KES" in body
    assert "1 × 2.50 KES = <strong>2.50 KES</strong>" in body
    assert "7.50 KES" in body
    assert "0 of 3 used" in body
    assert (Posting.objects.count(), Outbox.objects.values().get()) == before  # asking changes nothing


def test_a_confirmed_resend_is_done_once_however_often_it_is_posted(site, failed, provider):
    form = question(site, failed)

    first = site.post(address("resend", failed), form, follow=True)
    again = site.post(address("resend", failed), form, follow=True)
    provider.error = Rejected("still unknown")
    drain()
    late = site.post(address("resend", failed), form, follow=True)  # the back button, after it failed again

    assert b"It is being sent again." in first.content
    assert b"It was done once." in again.content
    assert b"It was done once." in late.content
    failed.refresh_from_db()
    assert (failed.status, failed.retry_count) == ("failed", 1)


def test_two_windows_send_it_again_once(site, failed):
    one, other = question(site, failed), question(site, failed)

    site.post(address("resend", failed), one)
    response = site.post(address("resend", failed), other, follow=True)

    assert b"Only a failed message can be sent again" in response.content
    failed.refresh_from_db()
    assert failed.retry_count == 1


def test_a_price_that_rose_in_the_meantime_is_asked_about_again(site, failed):
    form = question(site, failed)
    PriceFactory(prefix="254", price_per_segment=Decimal("2.5"), effective_from=timezone.now())

    response = site.post(address("resend", failed), form, follow=True)

    assert b"The price has changed" in response.content
    assert b"2.50 KES" in response.content
    failed.refresh_from_db()
    assert failed.retry_count == 0


def test_a_resend_without_the_money_changes_nothing_and_says_so(site, failed, account):
    ledger.adjust(account, Decimal("-9.5"), reason="correction")
    assert b"not enough" in site.get(address("resend", failed)).content

    response = site.post(address("resend", failed), question(site, failed), follow=True)

    assert b"Not sent again: 1 KES is needed and 0.5 KES is available." in response.content
    failed.refresh_from_db()
    assert (failed.status, failed.retry_count) == ("failed", 0)


def test_the_resend_question_for_what_cannot_be_resent_leads_back_to_the_message(site, entry):
    assert site.get(address("resend", entry))["Location"] == address("detail", entry)
    assert site.post(address("resend", entry))["Location"] == address("detail", entry)


def test_a_message_that_was_resent_often_enough_says_so(site, failed):
    Outbox.objects.filter(pk=failed.pk).update(retry_count=3)

    body = site.get(address("detail", failed)).content.decode()

    assert "as often as is allowed" in body
    assert "/resend/" not in body


def test_forms_from_elsewhere_are_refused(account, failed):
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(account.user)
    form = question(browser, failed)

    for path, fields in ((address("resend", failed), form), ("/outbox/new/", {"text": "Hello"}), ("/logout/", {})):
        response = browser.post(path, fields)
        assert response.status_code == 403
        assert b"did not come from this site" in response.content
    failed.refresh_from_db()
    assert failed.retry_count == 0


# --- a new message ----------------------------------------------------------------------------------------------------


def test_a_composed_message_is_accepted_with_all_that_was_typed(site, account):
    SenderIdFactory(user=account.user, name="SHOP")
    response = compose(
        site,
        recipient="0711 000 001",
        text="One\r\nTwo",
        sender_id="SHOP",
        tags=" news, spring ",
        priority="high",
        scheduled_at=f"{timezone.now() + timedelta(days=2):%Y-%m-%dT09:30}",
    )

    entry = Outbox.objects.get()
    assert response.redirect_chain == [(address("detail", entry), 302)]
    assert (entry.recipient, entry.sender_id, entry.tags) == (RECIPIENT, "SHOP", ["news", "spring"])
    assert entry.text == "One\nTwo"  # a browser sends a line end as two characters, which would cost
    assert entry.priority == Outbox.Priority.HIGH
    assert f"{entry.scheduled_at:%H:%M %Z}" == "09:30 UTC"
    assert b"Scheduled" in response.content


def test_a_form_that_is_sent_twice_sends_one_message(site):
    form = {"recipient": RECIPIENT, "text": "Hello", "once": hidden_fields(site.get("/outbox/new/"))["once"]}

    site.post("/outbox/new/", form)
    response = site.post("/outbox/new/", form, follow=True)

    assert b"The message was accepted once." in response.content
    assert response.redirect_chain == [(address("detail", Outbox.objects.get()), 302)]


def test_a_form_that_was_sent_and_then_changed_is_asked_about_and_can_be_sent(site):
    form = {"recipient": RECIPIENT, "text": "Hello", "once": hidden_fields(site.get("/outbox/new/"))["once"]}
    site.post("/outbox/new/", form)

    response = site.post("/outbox/new/", {**form, "text": "Hello again"})

    assert b"You have sent this form before" in response.content
    assert Outbox.objects.count() == 1
    site.post("/outbox/new/", {**form, "text": "Hello again", **hidden_fields(response)})
    assert list(Outbox.objects.order_by("pk").values_list("text", flat=True)) == ["Hello", "Hello again"]


def test_checking_the_price_sends_nothing(site):
    response = compose(site, text="Bei ni “nafuu” 🎉", check="1")

    body = response.content.decode()
    assert "UCS-2 · 1 unit" in body
    assert "Costs <strong>1.00 KES</strong> (1 × 1.00 KES)" in body
    assert "Leaves 9.00 KES available" in body
    assert re.findall(r'<span class="character"><bdi>(.)</bdi> <small>([^<]*)<', body) == [
        ("“", "left double quotation mark"),
        ("”", "right double quotation mark"),
        ("🎉", "party popper"),
    ]
    assert Outbox.objects.count() == Posting.objects.exclude(kind="top_up").count() == 0


def test_the_price_is_shown_as_far_as_the_message_is_typed(site):
    body = compose(site, recipient="0711", check="1").content.decode()

    assert "GSM-7 · 1 unit · 155 characters left" in body
    assert "Give a complete number to see the price." in body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipient", "12"),
        ("recipient", ""),
        ("text", " \n "),
        ("text", "a\x07b"),
        ("sender_id", "no good sender!"),
        ("tags", "a,a"),
        ("scheduled_at", "2020-01-01T09:00"),
        ("scheduled_at", "9999-12-31T23:59"),
        ("scheduled_at", "tomorrow"),
        ("priority", "urgent"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field_and_nothing_is_sent(site, field, value):
    response = compose(site, **{field: value})

    assert response.status_code == 200
    assert list(response.context["form"].errors) == [field]
    assert re.search(rf'id="id_{field}_error".*?id="id_{field}"', response.content.decode(), re.DOTALL)
    assert not Outbox.objects.exists()


def test_what_the_domain_refuses_is_said_and_nothing_is_sent(site, settings):
    settings.SMS_MAX_SEGMENTS = 1

    assert "The message needs 2 segments; 1 are allowed." in compose(site, text="a" * 161).content.decode()
    assert not Outbox.objects.exists()


def test_a_message_that_cannot_be_paid_is_kept_and_explained(site, account):
    ledger.adjust(account, Decimal("-9.5"), reason="correction")

    response = compose(site)

    entry = Outbox.objects.get()
    assert (entry.status, entry.charge_status) == ("failed", "none")
    assert response.redirect_chain == [(address("detail", entry), 302)]
    assert b"Not sent: 1 KES is needed and 0.5 KES is available." in response.content
    assert b"Nothing was charged." in response.content


def test_the_simulator_tells_which_numbers_do_what_only_where_it_is_the_provider(site, settings):
    assert b"simulator" not in site.get("/outbox/new/").content
    settings.SMS_PROVIDERS = {"simulator": {"BACKEND": "outbox.providers.simulator.Provider"}}
    assert b"A simulator plays the provider." in site.get("/outbox/new/").content


# --- what holds for every page ----------------------------------------------------------------------------------------


class Inline(HTMLParser):
    """Collects what a strict Content-Security-Policy forbids."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.found += [name for name in names if name.startswith(("on", "hx-on", "style"))]
        self.found += [tag] if tag == "style" or (tag == "script" and not names.get("src")) else []
        self.found += [
            value
            for name, value in attrs
            if name in ("src", "href", "action", "hx-get", "hx-post") and not value.startswith(("/", "?", "#"))
        ]


@pytest.fixture
def evil(account, provider):
    provider.error = Rejected(EVIL)
    entry = sending.send(
        account.user,
        recipient=RECIPIENT,
        text=EVIL + "\u202edesrever",
        message_id=EVIL,
        message_name=EVIL,
        tags=[EVIL, "javascript:alert(1)"],
        custom_data={EVIL: "</pre><script>alert(3)</script>"},
    )
    drain()
    return entry


def test_no_page_holds_anything_inline_foreign_or_unescaped(site, evil, account):
    account.user.username = account.user.default_sender_id = "<b>x</b>"
    account.user.save()
    paths = ["/outbox/", "/outbox/new/", address("detail", evil), address("resend", evil), "/api/errors", "/api/docs"]
    responses = [site.get(path) for path in paths]
    responses += [site.get(f"/outbox/?tag={EVIL}&recipient={EVIL}&since={EVIL}"), site.get("/none/")]
    responses += [
        compose(site, text=EVIL, recipient=EVIL, sender_id=EVIL, tags=EVIL),
        Client().get(f"/login/?next={EVIL}"),
    ]

    for response in responses:
        inline = Inline()
        inline.feed(response.content.decode())
        assert inline.found == []
        for bad in (b"<script>alert", b"<img src=x", b"<b>x</b>"):
            assert bad not in response.content
        assert b"<title>" in response.content
        assert "'unsafe" not in response["Content-Security-Policy"]
        assert "no-store" in response["Cache-Control"]
        assert response["X-Frame-Options"] == "DENY"


def test_what_strangers_wrote_cannot_turn_the_text_around_it(site, evil):
    body = site.get(address("detail", evil)).content.decode()

    assert re.search("<bdi>[^<]*\u202edesrever</bdi>", body)


def test_every_code_of_the_api_is_explained_at_its_anchor(db):
    from smsportal.api.problems import KINDS

    body = Client().get("/api/errors").content.decode()

    assert re.findall(r'<h2 id="([a-z_]+)"', body) == list(KINDS)


def test_the_error_page_needs_neither_context_nor_database():
    from django.template.loader import render_to_string

    assert "Something went wrong" in render_to_string("500.html")
