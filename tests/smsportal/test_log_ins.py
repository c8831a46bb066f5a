"""Logging in: what a stranger learns, how often anybody may try, and who can let somebody in again."""

import time
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.contrib.admin.models import LogEntry
from django.db.models import F
from django.test import Client
from django.urls import reverse

from smsportal.models import User
from tests.factories import UserFactory
from tests.threads import at_once

DOORS = ["/login/", "/admin/login/"]
PASSWORD = "correct horse battery"
HERE, THERE = "203.0.113.7", "198.51.100.9"
LIST = reverse("admin:axes_accessattempt_changelist")


@pytest.fixture(autouse=True)
def quick_hashes(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def staff(db):
    staff = UserFactory(username="amina", is_staff=True)
    staff.set_password(PASSWORD)
    staff.save()
    return staff


def log_in(door="/login/", username="amina", password="wrong", address=HERE, **headers):
    form = {"username": username, "password": password}
    return Client(REMOTE_ADDR=address, headers=headers).post(door, form)


def lock_out(door="/login/", **who):
    return [log_in(door, **who).status_code for _ in range(6)]


def page_of(response):
    """What the page says, without what differs at each visit or was typed."""
    text = response.content.decode()
    for varying in (response.wsgi_request.META["CSRF_COOKIE"], response.wsgi_request.POST["username"]):
        text = text.replace(varying, "")
    return response.status_code, [line for line in text.splitlines() if "csrfmiddlewaretoken" not in line]


# --- no user enumeration ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_an_unknown_an_inactive_and_a_mistyped_user_are_answered_alike(staff, door):
    UserFactory(username="former", is_active=False, is_staff=True, password=staff.password)

    tried = [("amina", "wrong"), ("nobody", "wrong"), ("former", "wrong"), ("former", PASSWORD)]
    answers = [page_of(log_in(door, name, password)) for name, password in tried]

    assert answers[0][0] == 200
    assert all(answer == answers[0] for answer in answers)


def test_the_same_work_is_done_for_a_user_who_is_unknown(staff, monkeypatch):
    """As long as hashing a password takes: what decides is how often one is hashed."""
    from django.contrib.auth.hashers import MD5PasswordHasher

    hashed, encode = [], MD5PasswordHasher.encode

    def counted(*args, **kwargs):
        hashed.append(1)
        return encode(*args, **kwargs)

    monkeypatch.setattr(MD5PasswordHasher, "encode", counted)
    UserFactory(username="former", is_active=False, password=staff.password)

    work = []
    for name, password in (("amina", "wrong"), ("nobody", "wrong"), ("former", "wrong"), ("former", PASSWORD)):
        hashed.clear()
        log_in(username=name, password=password)
        work.append(len(hashed))

    assert work == [1, 1, 1, 1]


def test_a_locked_out_name_is_answered_alike_whether_or_not_it_exists(staff):
    assert lock_out(username="amina") == lock_out(username="nobody") == [200] * 5 + [429]
    assert page_of(log_in(username="amina")) == page_of(log_in(username="nobody"))


# --- limits that hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_after_five_wrong_passwords_the_right_one_has_to_wait_too(staff, door):
    assert lock_out(door) == [200] * 5 + [429]

    answer = log_in(door, password=PASSWORD)

    assert (answer.status_code, answer["Retry-After"]) == (429, "900")
    assert b"Wait 15 minutes" in answer.content
    assert "no-store" in answer["Cache-Control"]
    assert "Access-Control-Allow-Origin" not in log_in(door, **{"X-Requested-With": "XMLHttpRequest"})


def test_both_doors_count_together(staff):
    lock_out(DOORS[0])

    assert log_in(DOORS[1], password=PASSWORD).status_code == 429


@pytest.mark.django_db(transaction=True)
def test_of_forty_tries_at_once_five_passwords_are_looked_at(staff, monkeypatch):
    looked_at = []
    monkeypatch.setattr(User, "check_password", lambda *_: looked_at.append(1) or time.sleep(0.05))

    answers = at_once(40, lambda _: log_in().status_code)

    assert len(looked_at) == 5
    assert sorted(answers) == [200] * 5 + [429] * 35


def test_nobody_can_lock_a_user_out_from_elsewhere(staff):
    lock_out(address=HERE)

    assert log_in(password=PASSWORD, address=THERE).status_code == 302


def test_a_lock_ends_by_itself_and_trying_on_does_not_prolong_it(staff):
    lock_out()
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(minutes=14, seconds=50))
    assert log_in(password=PASSWORD).status_code == 429

    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(seconds=20))

    assert log_in(password=PASSWORD).status_code == 302


def test_success_forgives_earlier_failures(staff):
    for _ in range(3):
        assert [log_in().status_code for _ in range(4)] == [200] * 4
        assert log_in(password=PASSWORD).status_code == 302


def test_many_names_from_one_network_are_too_many_too(staff, settings):
    settings.LOGIN_TRIES_OF_A_NETWORK = 8

    answers = [log_in(username=f"name{number}").status_code for number in range(10)]

    assert answers == [200] * 8 + [429] * 2
    assert log_in(password=PASSWORD, address=THERE).status_code == 302


def test_success_costs_a_network_nothing(staff, settings):
    settings.LOGIN_TRIES_OF_A_NETWORK = 3

    assert [log_in(password=PASSWORD).status_code for _ in range(9)] == [302] * 9


def test_what_was_typed_is_kept_no_longer_than_a_day_and_no_password_at_all(staff):
    log_in(username="typed-into-the-wrong-field", password="CANARY")
    assert "CANARY" not in str(AccessAttempt.objects.values())
    AccessAttempt.objects.update(attempt_time=F("attempt_time") - timedelta(days=1, minutes=1))

    log_in(password=PASSWORD)

    assert not AccessAttempt.objects.filter(username="typed-into-the-wrong-field").exists()


# --- where from -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "forwarded", "known_as"),
    [
        (0, None, HERE),
        (0, "198.51.100.9", HERE),  # anybody may write that
        (1, "198.51.100.9", THERE),
        (1, "192.0.2.1, 198.51.100.9", THERE),  # the left one is the client's own invention
        (2, "198.51.100.9, 192.0.2.1", THERE),
        (2, "198.51.100.9", HERE),  # one proxy was left out
        (1, "garbage", HERE),
        (1, "", HERE),
        (1, "::ffff:198.51.100.9", THERE),
        (1, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        (1, "2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
    ],
)
def test_the_address_is_what_the_outermost_trusted_proxy_saw(db, settings, proxies, forwarded, known_as):
    settings.TRUSTED_PROXIES = proxies

    log_in(**({} if forwarded is None else {"X-Forwarded-For": forwarded}))

    assert AccessAttempt.objects.get(username="amina").ip_address == known_as


def test_a_site_on_a_unix_socket_counts_as_well(staff):
    assert lock_out(address="") == [200] * 5 + [429]


# --- let in again -----------------------------------------------------------------------------------------------------


def test_the_staff_see_who_is_locked_out_and_let_them_in(admin_site, superuser, staff):
    lock_out()
    locked = AccessAttempt.objects.get(username="amina")
    page = admin_site.get(LIST).content.decode()
    assert "amina" in page
    assert HERE in page

    admin_site.post(LIST, {"action": "let_in", "_selected_action": [locked.pk]})

    assert log_in(password=PASSWORD).status_code == 302
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (superuser, str(staff.pk))
    assert entry.change_message == f"Let in again from {HERE}."


def test_staff_without_permission_let_nobody_in(staff_with, staff):
    lock_out()
    locked = AccessAttempt.objects.get(username="amina")

    assert staff_with().get(LIST).status_code == 403
    viewer = staff_with("axes.view_accessattempt")
    viewer.post(LIST, {"action": "let_in", "_selected_action": [locked.pk]})

    assert b"let_in" not in viewer.get(LIST).content
    assert log_in(password=PASSWORD).status_code == 429


# --- the session ------------------------------------------------------------------------------------------------------


def test_a_session_that_was_foisted_on_somebody_is_not_the_one_they_log_in_with(staff):
    browser = Client()
    browser.get("/login/")
    session = browser.session
    session["foisted"] = "yes"
    session.save()
    before = session.session_key

    browser.post("/login/", {"username": "amina", "password": PASSWORD})

    assert browser.session["_auth_user_id"] == str(staff.pk)
    assert browser.session.session_key != before
    assert not Client().session.exists(before)


def test_logging_out_ends_the_session(staff):
    browser = Client()
    browser.post("/login/", {"username": "amina", "password": PASSWORD})
    thief = Client()
    thief.cookies = browser.cookies
    assert thief.get("/outbox/").status_code == 200

    browser.post("/logout/")

    assert thief.get("/outbox/").status_code == 302
