"""Log lines: alike whoever writes them, with the request's id, and without a word of the callers'."""

import json
import logging

import pytest
from django.db import IntegrityError, connection
from django.test import Client

from smsportal import logs

LIST = "/api/sms/outbox"


def about_requests(lines):
    return [line for line in lines() if line["event"] == "request"]


def test_each_request_is_one_line_that_says_who_asked_what_and_what_came_of_it(api, account, lines):
    key = account.user.api_keys.get()

    answer = api.post("/api/sms/send", {"recipientPhoneNumber": "+254711000001", "message": "Hello"})

    (line,) = about_requests(lines)
    assert line.pop("ms") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "smsportal.middleware",
        "request_id": "made-by-the-portal",
        "user": str(account.user.pk),
        "key": key.hint,
        "outbox": answer.json()["outboxId"],
        "method": "POST",
        "route": "/api/sms/send",
        "status": 201,
    }


def test_a_page_is_logged_with_its_user(client, user, lines):
    client.force_login(user)
    client.get("/outbox/")

    (line,) = about_requests(lines)
    assert (line["user"], line["route"], line["status"]) == (str(user.pk), "/outbox/", 200)


def test_what_is_said_of_one_request_is_not_said_of_the_next(api, lines):
    api.get(LIST)
    Client().get(LIST)

    assert ["user" in line for line in about_requests(lines)] == [True, False]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/static/logo.svg"])
def test_what_machines_ask_for_all_day_is_not_logged(client, db, lines, path):
    answer = client.get(path)

    answer.close()  # a file is open until then
    assert answer.status_code == 200
    assert not about_requests(lines)


@pytest.mark.parametrize("given", ["0f8fad5b-d9cb-469f-a165-70867728950e", "shop_order-7781_try-1"])
def test_a_well_formed_request_id_of_the_callers_is_kept(client, db, lines, given):
    answer = client.get(LIST, headers={"X-Request-Id": given})

    assert answer["X-Request-Id"] == answer.json()["requestId"] == about_requests(lines)[0]["request_id"] == given


@pytest.mark.parametrize(
    "given",
    [
        "",
        "short",
        "254711000001",
        "+254711000001",
        "x" * 65,
        "sms_" + "k" * 43,
        "a b" * 10,
        "é" * 20,
        "1234567890\n123456789",
    ],
)
def test_any_other_is_replaced_by_one_of_ours(client, db, given):
    answer = client.get(LIST, headers={"X-Request-Id": given})

    assert answer["X-Request-Id"] == answer.json()["requestId"] == "made-by-the-portal"


def test_every_answer_has_a_request_id_and_every_problem_names_it(api, client):
    for answer in (api.get(LIST), client.get("/login/"), client.get("/none"), client.get("/static/logo.svg")):
        answer.close()
        assert answer["X-Request-Id"]
    for problem in (api.get("/api/none"), client.get(LIST), api.get(f"{LIST}/none"), api.put(LIST)):
        assert json.loads(problem.content)["requestId"] == problem["X-Request-Id"]


def test_ids_that_are_made_differ(monkeypatch):
    monkeypatch.undo()
    from smsportal.middleware import new_request_id

    assert new_request_id() != new_request_id()


# --- kept out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "/outbox/+254711000001/",
        "/api/sms/outbox/+254711000001",
        "/admin/CANARY/",
        "/CANARY",
        "/api/providers/locmem/receipts/CANARY",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_addresses_are_logged_as_their_pattern(client, db, lines, address, method):
    client.generic(method, f"{address}?q=CANARY")

    assert lines()
    assert "CANARY" not in str(lines())
    assert "711000001" not in str(lines())


def test_an_unknown_method_is_not_repeated(client, db, lines):
    client.generic("CANARY", "/api/sms/outbox")

    assert about_requests(lines)[0]["method"] == "other"


def test_an_exception_is_logged_by_its_kinds_and_places_and_not_by_its_words(account, lines):
    with pytest.raises(IntegrityError) as raised, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO smsportal_notice (kind, about, level, text) VALUES ('CANARY', NULL, 'CANARY', 'CANARY')"
        )
    assert "CANARY" in str(raised.value)  # PostgreSQL quotes the row
    logging.getLogger("outbox.dispatch").error("it broke", exc_info=raised.value)

    (line,) = [line for line in lines() if line["event"] == "it broke"]
    assert "CANARY" not in str(line)
    assert line["exception"].splitlines()[-1] == "django.db.utils.IntegrityError"
    assert "psycopg.errors.NotNullViolation" in line["exception"]
    assert "test_logs.py" in line["exception"]


def test_a_page_that_breaks_is_logged_by_its_pattern(monkeypatch, user, lines):
    def broken(*_args, **_kwargs):
        raise RuntimeError("CANARY")

    monkeypatch.setattr("outbox.pages.render", broken)
    client = Client(raise_request_exception=False)
    client.force_login(user)

    assert client.get("/outbox/?q=CANARY").status_code == 500
    (line,) = [line for line in lines() if line["level"] == "error"]
    assert line["event"] == "Internal Server Error: /outbox/"
    assert "RuntimeError" in line["exception"]
    assert "CANARY" not in str(lines())


def test_for_a_person_a_line_is_key_value(lines):
    record = logging.LogRecord("outbox", logging.INFO, __file__, 1, "sweep: %d", (3,), None)

    assert "level='info' logger='outbox' event='sweep: 3'" in logs.formatter("console").format(record)
