"""What each kind of page tells browsers, proxies and other sites."""

import json
import re
import runpy

import pytest
from django.test import Client

from smsportal.api import problems
from tests.factories import UserFactory

POLICY = {
    "default-src": "'self'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
EVIL = "https://evil.example"
PASSWORD = "correct horse battery"


def broken(*_args, **_kwargs):
    raise RuntimeError


@pytest.fixture
def browser(user, monkeypatch):
    """Of somebody on the staff, and a site of which one page and one call are broken."""
    user.is_staff = user.is_superuser = True
    user.save()
    browser = Client(raise_request_exception=False, headers={"Origin": EVIL})
    browser.force_login(user)
    monkeypatch.setattr("outbox.pages.get_object_or_404", broken)
    monkeypatch.setattr("billing.views.BalanceView.get", broken)
    return browser


def ask(browser, page):
    method, path, options = page
    return browser.generic(method, path, **options)


PAGES = {
    "an API answer": ("GET", "/api/sms/outbox", {}),
    "an export": ("GET", "/api/sms/outbox/export", {}),
    "a problem, 400": ("GET", "/api/sms/outbox?nothing=1", {}),
    "a problem, 400 of the host": ("GET", "/api/sms/outbox", {"headers": {"Host": "evil.example"}}),
    "a problem, 404 of a view": ("GET", "/api/sms/outbox/nothing", {}),
    "a problem, 404 of the site": ("GET", "/api/nothing", {}),
    "a problem, 405": ("PUT", "/api/sms/outbox", {}),
    "a problem, 500": ("GET", "/api/billing/balance", {}),
    "the schema": ("GET", "/api/schema", {}),
    "the API's page": ("GET", "/api/docs", {}),
    "the errors' page": ("GET", "/api/errors", {}),
    "a refused receipt": ("POST", "/api/providers/locmem/receipts/x", {}),
    "a page": ("GET", "/outbox/", {}),
    "a redirect": ("GET", "/", {}),
    "the log-in": ("GET", "/login/", {}),
    "a page of the admin": ("GET", "/admin/", {}),
    "a form of the admin": ("GET", "/admin/smsportal/apikey/add/", {}),
    "the admin's log-in": ("GET", "/admin/login/", {}),
    "the second factor": ("GET", "/account/second-factor/", {}),
    "a page, 400": ("GET", "/outbox/", {"headers": {"Host": "evil.example"}}),
    "a page, 403": ("GET", "/admin/smsportal/notice/add/", {}),
    "a page, 404": ("GET", "/nothing", {}),
    "a page, 405": ("GET", "/logout/", {}),
    "a page, 500": ("GET", "/outbox/00000000-0000-0000-0000-000000000000/", {}),
    "the process's health": ("GET", "/healthz", {}),
    "the site's health": ("GET", "/readyz", {}),
    "figures": ("GET", "/metrics", {}),
}
STATIC: tuple[str, str, dict[str, str]] = ("GET", "/static/portal.css", {})


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_answer_is_guarded(browser, page):
    answer = ask(browser, page)

    directives = (directive.strip().split(" ", 1) for directive in answer["Content-Security-Policy"].split(";"))
    assert dict(directives) == POLICY
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert {"no-store", "private"} <= set(answer["Cache-Control"].split(", "))
    assert not [name for name in answer.headers if name.startswith("Access-Control-")]
    assert "Server" not in answer
    if "html" in answer.get("Content-Type", ""):
        assert (
            answer.get("X-Frame-Options") == "DENY" or answer.status_code == 400
        )  # for old browsers; a 400 has no form


def test_the_table_has_every_kind_of_answer(browser):
    for name, page in PAGES.items():
        if named := re.search(r", (\d+)", name):
            assert ask(browser, page).status_code == int(named[1]), name


def test_static_files_are_guarded_and_may_be_kept(browser):
    answer = ask(browser, STATIC)

    assert "frame-ancestors 'none'" in answer["Content-Security-Policy"]
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert "no-store" not in answer["Cache-Control"]
    list(answer.streaming_content)


@pytest.mark.parametrize("path", ["/api/sms/send", "/api/sms/outbox", "/outbox/", "/login/", "/static/portal.css"])
def test_other_sites_are_not_let_in_by_a_question_before(client, db, path):
    headers = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }

    answer = client.options(path, headers=headers)

    assert not [name for name in answer.headers if name.startswith("Access-Control-")]


@pytest.mark.parametrize("query", ["?format=api", "?format=admin", "?format=xml", "?format=html"])
def test_no_format_makes_the_api_answer_anything_but_json(browser, query):
    answer = browser.get(f"/api/sms/outbox{query}", headers={"Accept": "text/html"})

    assert answer["Content-Type"] in ("application/json", "application/problem+json")
    assert b"<html" not in answer.content


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"])
def test_no_header_changes_the_method(browser, header):
    assert browser.get("/api/sms/send", headers={header: "POST"}).status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "testserver:80@evil.example", ""])
def test_another_host_is_refused(client, db, host):
    assert client.get("/login/", headers={"Host": host}).status_code == 400
    assert client.get("/login/", headers={"X-Forwarded-Host": "evil.example"}).status_code == 200  # and not believed


# --- with an https address --------------------------------------------------------------------------------------------


@pytest.fixture
def https(settings, monkeypatch):
    """The site's settings as they are with an https PUBLIC_URL, behind a proxy."""
    monkeypatch.setenv("PUBLIC_URL", "https://testserver")
    monkeypatch.setenv("BEHIND_TLS_PROXY", "true")
    for name, value in runpy.run_path("smsportal/settings.py").items():
        if name.startswith(("SECURE_", "SESSION_", "CSRF_", "PUBLIC_URL")):
            setattr(settings, name, value)


def test_cookies_stay_with_the_site_and_out_of_scripts(db, https):
    user = UserFactory(username="amina")
    user.set_password(PASSWORD)
    user.save()
    browser = Client()

    browser.post("/login/", {"username": "amina", "password": PASSWORD}, secure=True)

    assert set(browser.cookies) == {"sessionid", "csrftoken"}
    for cookie in browser.cookies.values():
        assert cookie["secure"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert not cookie["domain"]


def test_http_leads_to_https_and_browsers_remember_it(client, db, https):
    answer = client.get("/outbox/?a=b")
    assert (answer.status_code, answer["Location"]) == (301, "https://testserver/outbox/?a=b")

    remembered = client.get("/login/", secure=True)["Strict-Transport-Security"]
    assert remembered == "max-age=31536000; includeSubDomains; preload"
    for path in ("/healthz", "/readyz", "/metrics"):  # asked from inside, where there is no TLS
        assert client.get(path).status_code == 200


def test_the_proxys_word_about_tls_is_believed_only_when_it_is_said_to_be_there(client, db, https, settings):
    forwarded = {"X-Forwarded-Proto": "https"}
    assert client.get("/login/", headers=forwarded).status_code == 200

    settings.SECURE_PROXY_SSL_HEADER = None

    assert Client().get("/login/", headers=forwarded).status_code == 301


@pytest.mark.parametrize("headers", [{}, {"Origin": EVIL}, {"Referer": f"{EVIL}/"}, {"Origin": "null"}])
def test_a_form_from_another_site_is_refused_even_with_its_token(db, https, headers):
    browser = Client(enforce_csrf_checks=True)
    browser.get("/login/", secure=True)
    token = browser.cookies["csrftoken"].value

    answer = browser.post("/login/", {"csrfmiddlewaretoken": token}, secure=True, headers=headers)

    assert answer.status_code == 403


def test_problems_keep_what_the_site_says_to_browsers(browser):
    answer = browser.get("/api/nothing")

    assert answer["Content-Type"] == problems.CONTENT_TYPE
    assert json.loads(answer.content)["code"] == "not_found"
