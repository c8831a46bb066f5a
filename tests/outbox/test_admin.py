"""Staff and messages: everything to be read but private texts, nothing edited, a resend by POST with a reason."""

import logging
import re
from datetime import timedelta
from decimal import Decimal

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import ledger
from billing.models import Account, Posting
from outbox import sending
from outbox.admin.messages import _first_id
from outbox.dispatch import Dispatcher
from outbox.models import Attempt, Outbox, Receipt
from outbox.providers.base import Rejected
from smsportal import log_admin
from tests.factories import UserFactory

LIST = reverse("admin:outbox_outbox_changelist")
RESEND = reverse("admin:outbox_outbox_resend")


def detail(entry):
    return reverse("admin:outbox_outbox_change", args=[entry.pk])


def listed(client, query=""):
    return [row.pk for row in client.get(LIST + query).context["cl"].result_list]


@pytest.fixture
def entry(account):
    return sending.send(account.user, recipient="+254711000001", text="Hello Amina", message_id="order-1")


@pytest.fixture
def failed(entry, provider):
    provider.error = Rejected("unknown subscriber")
    Dispatcher(concurrency=1).run(once=True)
    provider.error = None
    entry.refresh_from_db()
    assert entry.status == "failed"
    return entry


@pytest.fixture
def many(entry):
    """A full page and a half of messages."""
    for batch in range(3):
        rows = [
            Outbox(
                **{field.name: getattr(entry, field.name) for field in Outbox._meta.fields if field.name != "id"}
                | {"message_id": f"m{batch}-{number}", "due_at": None, "status": "sent", "charge_status": "charged"}
            )
            for number in range(50)
        ]
        Outbox.objects.bulk_create(rows)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_is_newest_first_and_its_pages_follow_each_other(admin_site, many):
    first, second = listed(admin_site), listed(admin_site, "?p=2")

    assert (len(first), len(second)) == (100, 51)
    assert first + second == sorted(Outbox.objects.values_list("pk", flat=True), reverse=True)


@pytest.mark.parametrize("model", ["outbox", "attempt", "receipt"])
def test_nobody_counts_the_log(admin_site, many, model, django_assert_max_num_queries):
    address = reverse(f"admin:outbox_{model}_changelist")
    with django_assert_max_num_queries(32) as captured:
        for query in ("", "?q=nothing", "?created=7d", "?p=2", "?_facets=True", "?all="):
            admin_site.get(address + query)

    assert not [query["sql"] for query in captured if "COUNT(" in query["sql"].upper()]


def test_pages_end_where_looking_further_would_read_too_much(admin_site, many, monkeypatch):
    monkeypatch.setattr(log_admin, "MAX_PAGES", 1)

    response = admin_site.get(LIST + "?p=2")

    assert b"narrow it with a filter" in response.content
    assert len(response.context["cl"].result_list) == 100


def test_no_address_sorts_the_log_by_a_column_without_an_index(admin_site, many):
    assert listed(admin_site, "?o=3.-1") == listed(admin_site)


def test_the_log_takes_as_many_queries_for_a_hundred_rows_as_for_one(
    admin_site, entry, many, django_assert_max_num_queries
):
    with django_assert_max_num_queries(5):
        admin_site.get(LIST)


@pytest.mark.parametrize(
    "term",
    ["{id}", " {id} ", "+254711000001", "254711000001", "0711 000 001", "order-1", "amina"],
)
def test_a_message_is_found_by_its_id_its_number_its_message_id_and_its_user(admin_site, entry, account, term):
    sending.send(user_with_money(), recipient="+254711000002", text="Another one")

    response = admin_site.get(LIST, {"q": term.format(id=entry.pk)})

    assert [row.pk for row in response.context["cl"].result_list] == [entry.pk]


def user_with_money():
    user = UserFactory()
    ledger.top_up(ledger.account_of(user), Decimal(10), reason="payment")
    return user


@pytest.mark.parametrize(
    "term", ["%", "_", "order-_", "order%", "Hello", "ami", "'; DROP TABLE outbox_outbox; --", "+", "x" * 10_000, "\\"]
)
def test_a_search_is_literal_exact_and_harmless(admin_site, entry, term):
    assert admin_site.get(LIST, {"q": term}).context["cl"].result_list == []


def test_a_search_with_a_null_character_is_refused_politely(admin_site, entry):
    assert admin_site.get(LIST, {"q": "a\0b"}).status_code == 200


def test_searches_use_an_index(many):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        for term in ("+254711000009", "order-9"):
            condition = admin.site._registry[Outbox].find(term)
            plan = Outbox.objects.filter(condition).explain()
            assert "outbox_by_recipient" in plan or "outbox_message_id_once_per_user" in plan
            assert "Filter:" not in plan.replace("Recheck", "")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?status__exact=pending", True),
        ("?status__exact=failed", False),
        ("?outcome__exact=unknown", False),
        ("?delivery_status__exact=delivered", False),
        ("?charge_status__exact=held", True),
        ("?created=1d", True),
        ("?created=7d", True),
        ("?created={today}", True),
        ("?created=2020-01-01", False),
        ("?created=0001-01-01", False),
        ("?created=9999-12-31", True),
        ("?created=nonsense", True),
        ("?status__exact=pending&created=1d", True),
    ],
)
def test_filters_of_the_log(admin_site, entry, query, found):
    assert bool(listed(admin_site, query.format(today=entry.created_at.date()))) is found


def test_the_log_of_one_user_is_a_link_away(admin_site, entry, account):
    assert listed(admin_site, f"?user__id__exact={account.user_id}") == [entry.pk]
    assert listed(admin_site, f"?user__id__exact={UserFactory().pk}") == []


# --- one message ------------------------------------------------------------------------------------------------------


def test_a_message_shows_its_attempts_receipts_and_money(admin_site, failed):
    Receipt.objects.create(
        provider="locmem", outbox=failed, status="delivered", raw={"id": "<i>7</i>"}, effect="repeated"
    )

    page = admin_site.get(detail(failed)).content.decode()

    assert "Hello Amina" in page
    assert "unknown subscriber" in page
    assert "&lt;i&gt;7&lt;/i&gt;" in page
    assert "<i>7</i>" not in page
    for posting in failed.postings():
        assert reverse("admin:billing_posting_change", args=[posting.pk]) in page


def test_repeated_receipts_are_counted_and_not_all_shown(admin_site, entry):
    for number in range(60):
        effect = "applied" if number == 0 else "repeated"
        Receipt.objects.create(provider="locmem", outbox=entry, status="delivered", raw={}, effect=effect)

    page = admin_site.get(detail(entry)).content.decode()

    assert "1 changed the message, 59 said nothing new." in page
    assert page.count('<pre class="raw">') == 50


RECEIPTS = reverse("admin:outbox_receipt_changelist")


def test_orphans_and_contradictions_are_lists_of_their_own(admin_site, entry, django_assert_max_num_queries):
    for effect in Receipt.Effect:
        Receipt.objects.create(
            provider="locmem",
            outbox=None if effect == "orphan" else entry,
            provider_message_id="p1",
            status="delivered",
            raw={},
            effect=effect,
        )

    for effect in Receipt.Effect:
        with django_assert_max_num_queries(5):
            (row,) = admin_site.get(f"{RECEIPTS}?effect__exact={effect}").context["cl"].result_list
        assert row.effect == effect
    (row,) = admin_site.get(f"{RECEIPTS}?q=p1").context["cl"].result_list
    assert row.effect == "orphan"


@pytest.mark.parametrize("effect", ["orphan", "contradicts"])
def test_the_lists_of_receipts_for_staff_use_an_index(entry, effect):
    Receipt.objects.bulk_create(
        Receipt(provider="locmem", outbox=entry, status="delivered", raw={}, effect="applied") for _ in range(2000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE outbox_receipt")
    plan = Receipt.objects.filter(effect=effect).order_by("-id")[:101].explain()
    assert "receipt_for_staff" in plan
    assert "Sort" not in plan


HOSTILE = "<script>alert(1)</script>"


def test_what_strangers_write_is_escaped(admin_site, account):
    entry = sending.send(
        account.user,
        recipient="+254711000001",
        text=HOSTILE,
        message_id=HOSTILE,
        tags=[HOSTILE],
        custom_data={"a": HOSTILE},
    )
    Outbox.objects.filter(pk=entry.pk).update(error_code=HOSTILE, error_details=HOSTILE, sender_id="<b>")

    for page in (LIST, detail(entry), reverse("admin:outbox_outbox_history", args=[entry.pk])):
        content = admin_site.get(page).content.decode()
        assert HOSTILE not in content
        assert "<b>" not in content


def test_a_private_text_is_on_no_page_in_no_history_and_in_no_log(admin_site, account, provider, caplog):
    caplog.set_level(logging.DEBUG)
    text = "Your code is CANARY-4321"
    entry = sending.send(account.user, recipient="+254711000001", text=text, tags=["otp"])
    provider.error = Rejected(f"text refused: {text}")
    Dispatcher(concurrency=1).run(once=True)
    Receipt.objects.create(provider="locmem", outbox=entry, status="undelivered", raw={"echo": text}, effect="repeated")
    preview = admin_site.post(RESEND, {"_selected_action": entry.pk})
    resent = admin_site.post(RESEND, {"previewed": entry.hold_reference, "reason": "try again"})

    attempt, receipt = Attempt.objects.get(), Receipt.objects.get()
    pages = [
        LIST,
        detail(entry),
        reverse("admin:outbox_outbox_history", args=[entry.pk]),
        reverse("admin:outbox_attempt_changelist"),
        reverse("admin:outbox_attempt_change", args=[attempt.pk]),
        reverse("admin:outbox_receipt_changelist"),
        reverse("admin:outbox_receipt_change", args=[receipt.pk]),
        reverse("admin:billing_posting_changelist"),
        "/admin/",
    ]
    answers = [preview, resent, *map(admin_site.get, pages)]

    assert not [answer.request["PATH_INFO"] for answer in answers if b"CANARY" in answer.content]
    assert b"hidden: a one-time password" in admin_site.get(detail(entry)).content
    for line in LogEntry.objects.all():
        assert "CANARY" not in f"{line.object_repr} {line.change_message}"
        assert "711000001" not in f"{line.object_repr} {line.change_message}"
    assert "CANARY" not in "".join(
        record.getMessage() for record in caplog.records if record.name != "django.db.backends"
    )


# --- sending again ----------------------------------------------------------------------------------------------------


def test_a_preview_shows_what_a_resend_would_cost_and_changes_nothing(admin_site, failed, account, price):
    pending = sending.send(account.user, recipient="+254711000003", text="Hello")
    type(price).objects.create(price_per_segment="1.5", effective_from=timezone.now(), reason="new", currency="KES")
    before = (list(Outbox.objects.values()), Posting.objects.count(), LogEntry.objects.count())

    response = admin_site.post(LIST, {"action": "resend", "_selected_action": [failed.pk, pending.pk]})

    page = re.sub(r"\s+", " ", response.content.decode())
    assert "1.0000 KES" in page  # before
    assert "1.5000 KES" in page  # today
    assert "Only a failed message can be sent again; this one is pending." in page
    assert (list(Outbox.objects.values()), Posting.objects.count(), LogEntry.objects.count()) == before


def test_a_confirmed_resend_is_done_and_attributed_with_its_reason(admin_site, failed, superuser):
    admin_site.post(RESEND, {"previewed": failed.hold_reference, "reason": "the number is open again"})

    failed.refresh_from_db()
    assert (failed.status, failed.retry_count, failed.charge_status) == ("pending", 1, "held")
    line = LogEntry.objects.get()
    assert (line.user, line.object_id, line.object_repr) == (superuser, str(failed.pk), str(failed.pk))
    assert line.change_message == "Sent again for 1 KES: the number is open again"
    assert not Posting.objects.filter(kind="hold", created_by__isnull=False).exists()


def test_a_resend_needs_a_reason(admin_site, failed):
    response = admin_site.post(RESEND, {"previewed": failed.hold_reference, "reason": " "})

    assert b"This field is required." in response.content
    failed.refresh_from_db()
    assert failed.status == "failed"


def test_a_form_that_is_sent_twice_sends_once(admin_site, failed):
    form = {"previewed": failed.hold_reference, "reason": "again"}

    admin_site.post(RESEND, form)
    second = admin_site.post(RESEND, form)

    assert b"Not sent again: Only a failed message can be sent again; this one is pending." in second.content
    failed.refresh_from_db()
    assert failed.retry_count == LogEntry.objects.count() == 1


def test_a_form_that_is_sent_again_after_the_message_failed_again_sends_nothing(admin_site, failed, provider):
    form = {"previewed": failed.hold_reference, "reason": "again"}
    admin_site.post(RESEND, form)
    provider.error = Rejected("still unknown")
    Dispatcher(concurrency=1).run(once=True)

    second = admin_site.post(RESEND, form)

    assert b"Not sent again: " in second.content
    failed.refresh_from_db()
    assert (failed.status, failed.retry_count, LogEntry.objects.count()) == ("failed", 1, 1)


def test_one_that_is_not_paid_for_is_refused_and_the_others_are_sent(admin_site, account, provider):
    provider.error = Rejected("no")
    entries = [sending.send(account.user, recipient=f"+25471100000{n}", text="Hello") for n in range(3)]
    Dispatcher(concurrency=1).run(once=True)
    Account.objects.filter(pk=account.pk).update(balance=2)

    preview = admin_site.post(RESEND, {"_selected_action": [entry.pk for entry in entries]})
    done = admin_site.post(RESEND, {"previewed": [entry.hold_reference for entry in entries], "reason": "again"})

    assert b"Not enough" in preview.content
    assert b"1 KES is needed and 0 KES is available." in done.content
    assert Outbox.objects.filter(status="pending").count() == LogEntry.objects.count() == 2


def test_a_resend_is_only_for_those_with_the_permission_and_only_by_post(admin_site, staff_with, failed):
    form = {"previewed": failed.hold_reference, "reason": "again"}
    reader = staff_with("outbox.view_outbox", "outbox.change_outbox")
    blind = staff_with("outbox.resend_outbox")

    assert admin_site.get(RESEND, form).status_code == 405
    assert reader.post(RESEND, form).status_code == 403
    assert reader.post(RESEND, {"_selected_action": failed.pk}).status_code == 403
    assert blind.post(RESEND, form).status_code == 403
    reader.post(LIST, {"action": "resend", "_selected_action": failed.pk})
    assert RESEND.encode() not in reader.get(detail(failed)).content
    assert b"Send again" not in reader.get(LIST).content
    assert RESEND.encode() in admin_site.get(detail(failed)).content
    failed.refresh_from_db()
    assert failed.status == "failed"


def test_staff_with_the_permission_to_resend_need_no_other_than_to_see_the_log(staff_with, failed):
    staff = staff_with("outbox.view_outbox", "outbox.resend_outbox")

    staff.post(RESEND, {"previewed": failed.hold_reference, "reason": "again"})

    failed.refresh_from_db()
    assert failed.status == "pending"


def test_no_form_of_another_site_sends_again(failed, superuser):
    stranger = Client(enforce_csrf_checks=True)
    stranger.force_login(superuser)

    assert stranger.post(RESEND, {"previewed": failed.hold_reference, "reason": "again"}).status_code == 403


def test_one_action_takes_no_more_than_a_person_can_look_through(admin_site, many):
    ids = list(Outbox.objects.values_list("pk", flat=True))

    response = admin_site.post(RESEND, {"_selected_action": [*ids, *[UNKNOWN] * 100]})

    assert len(response.context["refused"]) <= 200
    assert response.context["left_out"] == len(ids) + 100 - 200


UNKNOWN = "019ab3c2-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "form", [{}, {"_selected_action": "x"}, {"previewed": "x/1"}, {"previewed": f"{UNKNOWN}/99999999999"}]
)
def test_nonsense_sends_nothing(admin_site, failed, form):
    response = admin_site.post(RESEND, {**form, "reason": "again"})

    assert b"None of the chosen messages" in response.content


def test_an_action_never_reaches_rows_that_are_not_shown(admin_site, failed, many):
    response = admin_site.post(LIST, {"action": "resend", "_selected_action": failed.pk, "select_across": "1"})

    assert [line.entry.pk for line in response.context["eligible"]] == [failed.pk]
    assert b'class="question"' not in admin_site.get(LIST).content


def test_the_day_of_a_message_is_a_range_of_ids(admin_site, entry):
    old = (timezone.now() - timedelta(days=40)).timestamp()

    assert Outbox.objects.filter(pk__gte=_first_id(old)).exists()
    assert not Outbox.objects.filter(pk__lt=_first_id(old)).exists()
