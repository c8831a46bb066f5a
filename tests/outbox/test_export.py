"""The log as a file that a spreadsheet opens and cannot be hurt by."""

import csv
import io
import tracemalloc
from decimal import Decimal

import pytest

from billing import ledger
from outbox import export, sending
from outbox.models import Outbox
from tests.factories import UserFactory

EXPORT = "/api/sms/outbox/export"


def table(response):
    assert (response.status_code, response["Content-Type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.DictReader(io.StringIO(b"".join(response.streaming_content).decode(), newline="")))


def send(account, **more):
    return sending.send(account.user, **{"recipient": "+254711000001", "text": "Hello"} | more)


def test_each_message_is_a_row_newest_first(api, account):
    first = send(account, text='a "b", c\r\nd', tags=["x", "y"], custom_data={"linkedTransactionId": "t1"})
    second = send(account)

    rows = table(api.get(EXPORT))

    assert [row["outboxId"] for row in rows] == [str(second.pk), str(first.pk)]
    row = rows[1]
    assert row["message"] == 'a "b", c\r\nd'
    assert row["recipientPhoneNumber"] == "+254711000001"
    assert (row["totalCost"], row["smsUnitsUsed"], row["status"], row["sentAt"]) == ("1", "1", "pending", "")
    assert row["createdAt"] == first.created_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (row["tags"], row["customData"]) == ("x y", '{"linkedTransactionId": "t1"}')


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", " =1", "'=1", '"=1'])
def test_no_cell_is_a_formula(api, account, start):
    text = f'{start},cmd|" /C calc"'
    send(account, text=text, message_name=start.strip() or "x", tags=[start.strip()], message_id=start.strip())

    row = table(api.get(EXPORT))[0]

    for name, cell in row.items():
        if name != "recipientPhoneNumber":
            assert not cell.startswith(export.FORMULA_STARTS)
    assert row["message"].removeprefix("'") == text.removeprefix("'")


def test_the_text_of_a_one_time_password_is_not_in_it(api, account):
    send(account, text="Your code is 4321", tags=["otp"])

    assert table(api.get(EXPORT))[0]["message"] == "hidden: a one-time password"


def test_it_holds_what_the_filters_let_through_and_nothing_of_others(api, account, client_of, price):
    other = ledger.account_of(UserFactory())
    ledger.top_up(other, Decimal(5), reason="x")
    send(other)
    wanted = send(account, tags=["a"])
    send(account, tags=["b"])

    assert [row["outboxId"] for row in table(api.get(f"{EXPORT}?tag=a"))] == [str(wanted.pk)]
    assert len(table(api.get(EXPORT))) == 2
    assert len(table(client_of(other.user).get(EXPORT))) == 1
    for query in ("colour=x", "pageSize=2", "createdAfter=x", "userId=x"):
        assert api.get(f"{EXPORT}?{query}").status_code == 400
    assert api.get(f"{EXPORT}?userId={other.user_id}").status_code == 403


def test_a_long_log_is_read_in_parts_and_never_held_whole(api, account, monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(export, "CHUNK", 50)
    entry = send(account)
    fields = {field.attname: getattr(entry, field.attname) for field in Outbox._meta.fields}
    new_id = Outbox._meta.pk.get_default
    Outbox.objects.bulk_create(
        Outbox(**fields | {"id": new_id(), "message_id": str(number), "text": "x" * 900}) for number in range(999)
    )

    with django_assert_num_queries(21):
        lines = list(export.rows(account.user.outbox.all()))
    assert len("".join(lines).splitlines()) == 1001
    tracemalloc.start()
    for _ in export.rows(account.user.outbox.all()):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # the rows together have more than that
