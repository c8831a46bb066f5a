"""Nobody sends as somebody else: sender IDs are asked for, approved by staff, and belong to one user."""

import json

import pytest
from django.contrib.admin.models import LogEntry
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from outbox import sender_ids, sending
from outbox.exceptions import (
    SenderIdDecided,
    SenderIdKnown,
    SenderIdProtected,
    SenderIdTaken,
)
from outbox.models import Outbox, ProtectedName, SenderId
from outbox.providers.base import Rejected
from smsportal.models import Notice, User
from tests.factories import SenderIdFactory, UserFactory
from tests.outbox.attempts import hand_over
from tests.threads import at_once

SEND, RESEND = "/api/sms/send", "/api/sms/outbox/resend"
BODY = {"recipientPhoneNumber": "+254711000001", "message": "Hello"}
PAGE = "/settings/sender-ids/"


@pytest.fixture
def rival(account):
    """Another user, with a name of their own."""
    rival = UserFactory(username="bo")
    SenderIdFactory(user=rival, name="PAYPAL")
    return rival


def problem(response):
    return response.status_code, json.loads(response.content)["code"]


def site_of(user):
    client = Client()
    client.force_login(user)
    return client


# --- sending ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PAYPAL", "PAY PAL", "paypal", "PAYPA1", "PayPaI", "BANK", "MYBRAND2"])
def test_a_name_that_is_not_approved_for_the_user_is_refused_and_leaves_no_trace(api, account, provider, rival, name):
    response = api.post(SEND, BODY | {"senderId": name})

    assert problem(response) == (403, "sender_id_not_allowed")
    assert "/settings/sender-ids/" in json.loads(response.content)["detail"]
    assert problem(api.post("/api/sms/quote", BODY | {"senderId": name})) == (403, "sender_id_not_allowed")
    account.refresh_from_db()
    assert (Outbox.objects.count(), account.held, provider.messages) == (0, 0, [])


@pytest.mark.parametrize(
    "name",
    [
        *(
            "A\r\nX-Header: b",
            "MYBRAND\n",
            "MY\x00BRAND",
            "MY\r\nBRAND",
            "MYBRAND😀",
            "MYBRANDMYBRA",
            "12345",
            "",
            "   ",
        ),
        *("+447400123456", "+44", "МYBRAND", "MY-BRAND", " MYBRAND", "M" * 5000),
    ],
)
def test_what_no_network_carries_is_bad_input_even_if_it_looks_like_an_approved_name(api, account, name):
    response = api.post(SEND, BODY | {"senderId": name})

    assert problem(response) == (400, "invalid")
    assert json.loads(response.content)["errors"][0]["field"] == "senderId"
    assert not Outbox.objects.exists()


def test_other_mistakes_are_told_before_a_sender_id_is_refused(api, account):
    assert problem(api.post(SEND, BODY | {"senderId": "PAYPAL", "message": " "})) == (400, "invalid")


@pytest.mark.parametrize("name", ["MYBRAND", "MyBrand", "MY BRAND"])
def test_a_user_may_spell_an_approved_name_otherwise(account, name):
    assert sending.send(account.user, recipient="+254711000001", text="x", sender_id=name).sender_id == name


def test_a_default_that_is_not_approved_does_not_become_another_sender(api, account):
    SenderId.objects.all().delete()

    assert problem(api.post(SEND, BODY)) == (403, "sender_id_not_allowed")

    User.objects.update(default_sender_id="")
    assert api.post(SEND, BODY).json()["senderId"] is None


def test_a_message_is_not_sent_again_as_somebody_it_may_not_be_any_more(api, account, superuser):
    entry = sending.send(account.user, recipient="+254711000001", text="x")
    hand_over(entry)
    Outbox.objects.update(status="failed", charge_status="none")
    sender_ids.refuse(SenderId.objects.get(), by=superuser, reason="The brand was sold.")

    assert problem(api.post(RESEND, {"outboxId": str(entry.pk)})) == (403, "sender_id_not_allowed")


# --- asking for one ---------------------------------------------------------------------------------------------------


def test_a_user_asks_for_a_name_the_staff_are_told_and_approve_it_and_it_works(account, superuser):
    wanted = sender_ids.request(account.user, "SHOP")
    assert Notice.objects.get(ended_at=None).text.startswith("amina asks for the sender ID “SHOP”")
    assert not sender_ids.is_allowed("SHOP", account.user)

    sender_ids.approve(wanted, by=superuser, reason="Seen their licence.")

    assert sender_ids.is_allowed("SHOP", account.user)
    assert (wanted.decided_by, wanted.reason) == (superuser, "Seen their licence.")
    assert wanted.decided_at is not None
    assert not Notice.objects.filter(ended_at=None).exists()


def test_a_number_of_the_users_own_is_kept_in_its_one_form(user):
    assert sender_ids.request(user, "0711 000 099").name == "+254711000099"


@pytest.mark.parametrize("name", ["", "12", "A\r\nB", "MYBRANDMYBRA", "МYBRAND", "+1", "x" * 17])
def test_what_could_never_be_sent_cannot_be_asked_for(user, name):
    with pytest.raises(ValidationError):
        sender_ids.request(user, name)
    assert SenderId.objects.count() == 1


def test_nobody_asks_twice_or_for_too_many_but_again_after_a_refusal(user, superuser):
    with pytest.raises(SenderIdKnown):
        sender_ids.request(user, "My Brand")
    for number in range(sender_ids.MAX_REQUESTS):
        wanted = sender_ids.request(user, f"SHOP {'ABCDEFGHIJ'[number]}")
    with pytest.raises(SenderIdKnown):
        sender_ids.request(user, "ONE MORE")

    sender_ids.refuse(wanted, by=superuser, reason="Why so many?")

    assert sender_ids.request(user, wanted.name).state == "requested"


# --- deciding ---------------------------------------------------------------------------------------------------------


def test_a_look_alike_of_anothers_name_is_approved_only_as_shared(account, rival, superuser):
    wanted = sender_ids.request(account.user, "PayPaI")

    with pytest.raises(SenderIdTaken):
        sender_ids.approve(wanted, by=superuser, reason="ok")
    assert not sender_ids.is_allowed("PAYPAL", account.user)

    sender_ids.approve(wanted, by=superuser, reason="The same business.", shared=True)
    assert sender_ids.is_allowed("PAYPAL", account.user)


@pytest.mark.parametrize(
    ("protected", "name"),
    [
        ("M-Pesa", "MPE5A"),
        ("M-Pesa", "MPESA INFO"),
        ("Standard Chartered", "STANDARDCHA"),
        ("KCB", "KCB"),
        ("КСВ", "KCB"),  # Cyrillic
    ],
)
def test_a_protected_name_is_approved_by_those_who_may_and_nobody_else(user, superuser, staff_with, protected, name):
    ProtectedName.objects.create(name=protected)
    wanted = sender_ids.request(user, name)
    staff_with("outbox.decide_senderid")

    with pytest.raises(SenderIdProtected):
        sender_ids.approve(wanted, by=User.objects.latest("pk"), reason="ok")

    sender_ids.approve(wanted, by=superuser, reason="It is the bank itself.")


def test_a_short_protected_name_does_not_protect_every_word_it_is_in(user):
    ProtectedName.objects.create(name="ING")

    assert sender_ids.protected_name_like("SHOPPING") is None


def test_a_decision_is_made_once(user, superuser):
    wanted = sender_ids.request(user, "SHOP")
    sender_ids.refuse(wanted, by=superuser, reason="no")

    with pytest.raises(SenderIdDecided):
        sender_ids.approve(wanted, by=superuser, reason="yes")
    assert SenderId.objects.get(pk=wanted.pk).reason == "no"


@pytest.mark.django_db(transaction=True)
def test_of_many_users_whose_names_look_alike_one_is_approved_however_many_staff_decide_at_once(superuser):
    names = ["SHOP", "5HOP", "SH0P", "5H0P", "S H O P", "shop", "Shop", "sh0p"]
    wanted = [sender_ids.request(UserFactory(), name) for name in names]

    results = at_once(8, lambda number: sender_ids.approve(wanted[number], by=superuser, reason="ok"))

    assert SenderId.objects.filter(state="approved").count() == 1
    assert sum(isinstance(result, SenderIdTaken) for result in results) == 7


# --- the admin --------------------------------------------------------------------------------------------------------


def decide(client, wanted, verb, **form):
    return client.post(reverse(f"admin:outbox_senderid_{verb}", args=[wanted.pk]), form, follow=True)


def test_staff_approve_and_take_back_by_post_with_a_reason_in_the_history(user, staff_with):
    staff = staff_with("outbox.decide_senderid")
    wanted = sender_ids.request(user, "SHOP")

    page = staff.get(reverse("admin:outbox_senderid_approve", args=[wanted.pk]))
    assert (page.status_code, SenderId.objects.get(pk=wanted.pk).state) == (200, "requested")
    assert "errornote" in decide(staff, wanted, "approve", reason="").content.decode()
    decide(staff, wanted, "approve", reason="Seen their licence.")
    assert SenderId.objects.get(pk=wanted.pk).state == "approved"
    assert "decided on it already" in decide(staff, wanted, "approve", reason="Again.").content.decode()
    decide(staff, wanted, "refuse", reason="The brand was sold.")

    assert SenderId.objects.get(pk=wanted.pk).state == "refused"
    history = LogEntry.objects.order_by("pk").values_list("change_message", flat=True)
    assert list(history) == ["Approve: Seen their licence.", "Refuse: The brand was sold."]


def test_staff_without_the_permission_decide_nothing(user, staff_with):
    wanted = sender_ids.request(user, "SHOP")
    staff = staff_with("outbox.view_senderid")

    assert staff.get(reverse("admin:outbox_senderid_change", args=[wanted.pk])).status_code == 200
    for verb in ("approve", "refuse"):
        assert decide(staff, wanted, verb, reason="x").status_code == 403
    assert SenderId.objects.get(pk=wanted.pk).state == "requested"


def test_staff_see_what_a_name_looks_like_before_they_decide(account, rival, staff_with):
    ProtectedName.objects.create(name="PayPal")
    wanted = sender_ids.request(account.user, "PAYPA1")
    staff = staff_with("outbox.decide_senderid")

    page = staff.get(reverse("admin:outbox_senderid_approve", args=[wanted.pk])).content.decode()
    assert "PAYPAL (bo)" in page
    assert "PayPal" in page
    assert "protected: you may not approve it" in decide(staff, wanted, "approve", reason="x").content.decode()
    found = staff.get(reverse("admin:outbox_senderid_changelist"), {"q": "pay pal"}).content.decode()
    assert found.count("field-name") == 2


def test_protected_names_are_added_once_in_any_spelling_and_removed_by_those_who_may(admin_site, staff_with):
    add = reverse("admin:outbox_protectedname_add")
    admin_site.post(add, {"name": "M-Pesa"})
    again = admin_site.post(add, {"name": "MPE5A"}).content.decode()
    nothing = admin_site.post(add, {"name": "--"}).content.decode()

    assert "is protected already" in again
    assert "letters or digits" in nothing
    assert ProtectedName.objects.get().folded == "mpesa"
    assert staff_with("outbox.decide_senderid").post(add, {"name": "X"}).status_code == 403


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_lists_a_users_own_sender_ids_asks_for_another_and_chooses_the_default(account, rival, superuser):
    site = site_of(account.user)

    page = site.post(PAGE, {"name": "SHOP"}, follow=True).content.decode()
    assert "has been asked for SHOP" in page
    assert "waits for the operator" in page
    assert "PAYPAL" not in page
    assert "before" in site.post(PAGE, {"name": "5HOP"}).content.decode()
    assert "1 to 11 letters" in site.post(PAGE, {"name": "<b>x</b>"}).content.decode()

    assert "not approved" in site.post(f"{PAGE}default/", {"name": "SHOP"}, follow=True).content.decode()
    sender_ids.approve(SenderId.objects.get(name="SHOP"), by=superuser, reason="ok")
    site.post(f"{PAGE}default/", {"name": "SHOP"})
    account.user.refresh_from_db()
    assert account.user.default_sender_id == "SHOP"
    assert site.get(f"{PAGE}default/").status_code == 405
    assert Client().get(PAGE).status_code == 302


def test_compose_says_what_to_do_about_a_sender_id_that_is_not_approved(account):
    form = {**BODY, "recipient": "+254711000001", "text": "x", "sender_id": "SHOP"}

    page = site_of(account.user).post("/outbox/new/", form).content.decode()

    assert "The sender ID SHOP is not approved" in page
    assert "Approved for you: MYBRAND." in page
    assert not Outbox.objects.exists()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_approves_what_was_asked_for_or_not(user, rival, capsys):
    sender_ids.request(user, "SHOP")
    for name in ("SHOP", "0711 000 099"):
        call_command("approve_sender_id", "amina", name, "--reason", "By telephone")

    assert sender_ids.approved_for(user) == ["+254711000099", "MYBRAND", "SHOP"]
    assert capsys.readouterr().out == "amina may send as SHOP.\namina may send as +254711000099.\n"
    for name in ("PAYPAL", "no!"):
        with pytest.raises(CommandError):
            call_command("approve_sender_id", "amina", name, "--reason", "x")
    assert sender_ids.approved_for(user) == ["+254711000099", "MYBRAND", "SHOP"]


def test_a_rejected_message_is_sent_again_as_it_was(api, account, provider):
    provider.error = Rejected("no")
    entry = sending.send(account.user, recipient="+254711000001", text="x", sender_id="My Brand")
    hand_over(entry)
    Outbox.objects.update(status="failed", charge_status="none")

    assert api.post(RESEND, {"outboxId": str(entry.pk)}).json()["senderId"] == "My Brand"
