"""The staff's second factor: what it guards, that no code works twice, and the ways back in."""

import re
import time

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django_otp.oath import totp
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from tests.factories import UserFactory
from tests.threads import at_once

SET_UP, ENTER = "/account/second-factor/", "/account/second-factor/code/"
RENEW, REMOVE = "/account/second-factor/recovery/", "/account/second-factor/remove/"
OUTBOX = "/admin/outbox/outbox/"


@pytest.fixture
def device(superuser):
    return TOTPDevice.objects.create(user=superuser, name="app")


@pytest.fixture
def required(settings):
    settings.STAFF_TOTP = "required"


def code_of(device, steps=0):
    return f"{totp(device.bin_key, drift=steps):06}"


def wrong_code_of(device):
    right = {code_of(device, steps) for steps in range(-2, 3)}
    return next(code for code in ("000000", "111111", "222222", "333333", "444444", "555555") if code not in right)


def enter(browser, code, **fields):
    return browser.post(ENTER, {"code": code, **fields})


def offered(page):
    """The key on the page, for the app, and what the form carries."""
    text = page.content.decode()
    sealed = re.search(r'name="sealed" value="([^"]+)"', text)[1]
    return TOTPDevice(key=page.context["secret"] and _hexadecimal(page.context["secret"])), sealed


def _hexadecimal(secret):
    import base64

    return base64.b32decode(secret).hex()


def set_up(browser):
    device, sealed = offered(browser.get(SET_UP))
    return browser.post(SET_UP, {"sealed": sealed, "code": code_of(device)})


# --- what it guards ---------------------------------------------------------------------------------------------------


def test_staff_with_a_device_give_a_code_to_enter_the_admin(admin_site, device):
    assert admin_site.get(OUTBOX)["Location"] == f"/admin/login/?next={OUTBOX}"
    assert admin_site.get(f"/admin/login/?next={OUTBOX}")["Location"] == f"{ENTER}?next={OUTBOX}"
    assert b"six digits" in admin_site.get(f"{ENTER}?next={OUTBOX}").content

    answer = enter(admin_site, code_of(device), next=OUTBOX)

    assert answer["Location"] == OUTBOX
    assert admin_site.get(OUTBOX).status_code == 200


@pytest.mark.parametrize("url", ["/admin/", OUTBOX, "/admin/smsportal/apikey/add/", "/admin/outbox/outbox/resend/"])
def test_no_page_of_the_admin_opens_without_it(admin_site, device, url):
    assert admin_site.get(url).status_code == 302
    assert admin_site.post(url).status_code == 302


def test_staff_without_one_enter_unless_it_is_required(admin_site, settings):
    assert admin_site.get(OUTBOX).status_code == 200

    settings.STAFF_TOTP = "required"

    assert admin_site.get(f"/admin/login/?next={OUTBOX}")["Location"] == f"{SET_UP}?next={OUTBOX}"
    assert admin_site.get(OUTBOX).status_code == 302
    set_up(admin_site)
    assert admin_site.get(OUTBOX).status_code == 200


def test_another_session_of_the_same_person_gives_a_code_too(admin_site, superuser):
    set_up(admin_site)
    other = Client()
    other.force_login(superuser)

    assert other.get(OUTBOX).status_code == 302


def test_a_code_changes_the_session(admin_site, device):
    before = admin_site.session.session_key

    enter(admin_site, code_of(device))

    assert admin_site.session.session_key != before


@pytest.mark.parametrize(
    "target", ["//evil.example/", "https://evil.example/", "javascript:alert(1)", "/\\evil.example"]
)
def test_a_code_leads_nowhere_else(admin_site, device, target):
    assert enter(admin_site, code_of(device), next=target)["Location"] == "/admin/"


def test_these_pages_are_for_staff(client, user):
    for path in (SET_UP, ENTER):
        assert client.get(path)["Location"] == f"/login/?next={path}"
    client.force_login(user)

    assert client.get(SET_UP).status_code == client.get(ENTER).status_code == 403
    assert client.post(RENEW).status_code == client.post(REMOVE).status_code == 403


# --- codes ------------------------------------------------------------------------------------------------------------


def test_a_code_works_once(admin_site, superuser, device):
    code = code_of(device)
    enter(admin_site, code)
    other = Client()
    other.force_login(superuser)

    answer = enter(other, code)

    assert b"wrong, was used before" in answer.content
    assert other.get(OUTBOX).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_of_many_who_use_one_code_at_once_one_gets_in(superuser, device):
    code, browsers = code_of(device), [Client() for _ in range(8)]
    for browser in browsers:
        browser.force_login(superuser)

    answers = at_once(8, lambda number: enter(browsers[number], code).status_code)

    assert sorted(answers) == [200] * 7 + [302]


def test_after_a_wrong_code_the_right_one_has_to_wait(admin_site, device):
    enter(admin_site, wrong_code_of(device))

    assert enter(admin_site, code_of(device)).status_code == 200  # too soon
    device.refresh_from_db()
    device.throttling_failure_timestamp = None
    device.save()
    assert enter(admin_site, code_of(device)).status_code == 302


@pytest.mark.parametrize("code", ["", "12345", "1234567", "١٢٣٤٥٦", "12345a", "\x00", "x" * 500, "-00001", "1e5   "])
def test_what_is_no_code_is_refused(admin_site, device, code):
    assert enter(admin_site, code).status_code == 200
    assert admin_site.get(OUTBOX).status_code == 302


def test_anothers_code_is_none(admin_site, device):
    others = TOTPDevice.objects.create(user=UserFactory(is_staff=True), name="app")

    assert enter(admin_site, code_of(others)).status_code == 200


# --- setting it up ----------------------------------------------------------------------------------------------------


def test_it_is_set_up_with_a_code_of_the_app_and_the_picture_is_made_here(admin_site, superuser):
    page = admin_site.get(SET_UP)
    assert re.search(r'<img src="data:image/svg\+xml[^"]+"', page.content.decode())
    assert not re.search(r'src="(https?:)?//', page.content.decode())

    answer = set_up(admin_site)

    assert len(re.findall(r"<li><code>[a-z2-7]{8}</code>", answer.content.decode())) == 10
    assert "no-store" in answer["Cache-Control"]
    assert TOTPDevice.objects.get().user == superuser
    assert [entry.change_message for entry in LogEntry.objects.all()] == ["Set up a second factor."]
    assert admin_site.get("/admin/").status_code == 200


def test_looking_at_the_page_stores_nothing_and_a_wrong_code_neither(admin_site):
    device, sealed = offered(admin_site.get(SET_UP))

    answer = admin_site.post(SET_UP, {"sealed": sealed, "code": wrong_code_of(device)})

    assert b"does not show this code" in answer.content
    assert offered(answer)[0].key == device.key  # the app need not read it again
    assert not TOTPDevice.objects.exists()
    assert not StaticDevice.objects.exists()


def test_a_key_of_somebody_elses_choice_is_not_taken(admin_site, staff_with):
    device, sealed = offered(staff_with().get(SET_UP))

    for forged in (sealed, sealed[:-1], "", device.key):
        admin_site.post(SET_UP, {"sealed": forged, "code": code_of(device)})

    assert not TOTPDevice.objects.exists()


def test_an_old_offer_is_none(admin_site, monkeypatch):
    device, sealed = offered(admin_site.get(SET_UP))
    now = time.time()
    monkeypatch.setattr("django.core.signing.time.time", lambda: now + 3601)

    admin_site.post(SET_UP, {"sealed": sealed, "code": code_of(device)})

    assert not TOTPDevice.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_two_windows_set_up_one(superuser):
    browsers = [Client(), Client()]
    for browser in browsers:
        browser.force_login(superuser)

    at_once(2, lambda number: set_up(browsers[number]))

    assert TOTPDevice.objects.count() == 1


def test_the_password_alone_changes_nothing_of_it(admin_site, superuser, device):
    for path in (RENEW, REMOVE):
        assert admin_site.post(path)["Location"] == f"{ENTER}?next={SET_UP}"
    admin_site.post(SET_UP, {"sealed": "x", "code": "000000"})

    assert TOTPDevice.objects.get() == device


@pytest.mark.parametrize("path", [RENEW, REMOVE])
def test_changes_need_a_post(admin_site, device, path):
    enter(admin_site, code_of(device))

    assert admin_site.get(path).status_code == 405


def test_who_has_it_can_set_up_another(admin_site, superuser):
    set_up(admin_site)
    first = TOTPDevice.objects.get()

    admin_site.post(REMOVE)
    set_up(admin_site)

    assert TOTPDevice.objects.get().key != first.key
    assert admin_site.get("/admin/").status_code == 200


# --- ways back in -----------------------------------------------------------------------------------------------------


def test_a_recovery_code_works_once(admin_site, superuser):
    code = re.search(r"<li><code>(\w+)</code>", set_up(admin_site).content.decode())[1]
    browsers = [Client(), Client()]
    for browser in browsers:
        browser.force_login(superuser)

    answers = [enter(browser, f" {code.upper()[:4]}-{code[4:]}").status_code for browser in browsers]

    assert answers == [302, 200]
    assert b"9 recovery codes left" in browsers[0].get(SET_UP).content


def test_new_recovery_codes_take_the_place_of_the_old_ones(admin_site, superuser):
    old = re.search(r"<li><code>(\w+)</code>", set_up(admin_site).content.decode())[1]

    admin_site.post(RENEW)

    assert not StaticToken.objects.filter(token=old).exists()
    assert StaticToken.objects.count() == 10


def test_another_superuser_removes_a_lost_one_with_a_reason_that_is_kept(admin_site, superuser):
    lost = UserFactory(is_staff=True)
    TOTPDevice.objects.create(user=lost, name="app")
    page = reverse("admin:smsportal_user_remove_second_factor", args=[lost.pk])

    assert b"Make sure who is asking" in admin_site.get(page).content
    admin_site.post(page, {"reason": ""})
    assert TOTPDevice.objects.exists()
    admin_site.post(page, {"reason": "phone stolen, seen in person"})

    assert not TOTPDevice.objects.exists()
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (superuser, str(lost.pk))
    assert entry.change_message == "Removed the second factor: phone stolen, seen in person"


def test_nobody_removes_their_own_that_way_and_other_staff_nobodys(admin_site, superuser, staff_with):
    TOTPDevice.objects.create(user=superuser, name="app", confirmed=False)
    page = reverse("admin:smsportal_user_remove_second_factor", args=[superuser.pk])
    staff = staff_with("smsportal.view_user", "smsportal.change_user")

    assert admin_site.post(page, {"reason": "x"}).status_code == 403
    assert staff.post(page, {"reason": "x"}).status_code == 403
    assert TOTPDevice.objects.exists()


def test_a_session_of_a_device_that_was_removed_is_verified_no_more(admin_site, superuser, required):
    set_up(admin_site)
    TOTPDevice.objects.all().delete()

    assert admin_site.get(OUTBOX).status_code == 302


def test_the_last_superuser_gets_in_by_a_command(superuser, admin_site, device, capsys):
    call_command("addstatictoken", superuser.username, token="abcd2345")

    assert enter(admin_site, "abcd2345").status_code == 302


def test_no_page_of_the_admin_shows_a_key(admin_site, superuser):
    set_up(admin_site)
    device = TOTPDevice.objects.get()

    assert admin_site.get(f"/admin/otp_totp/totpdevice/{device.pk}/change/").status_code == 404
    assert (
        device.key not in admin_site.get(reverse("admin:smsportal_user_change", args=[superuser.pk])).content.decode()
    )
