"""Notices go out by e-mail, through a real SMTP server: once, grouped, and again when the server was away."""

import email
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from django.db.models import F
from django.db.models.functions import Now

from smsportal import emails, notices
from smsportal.models import Notice, User, uuid7
from tests.portal import free_port
from tests.threads import at_once


class Mailbox:
    """What the server has taken. refuses: the answer to the next letters, until it is None."""

    def __init__(self) -> None:
        self.letters: list[email.message.EmailMessage] = []
        self.refuses: str | None = None

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuses:
            return self.refuses
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.letters.append(letter)
        return "250 OK"


@pytest.fixture
def mailbox(settings: Any) -> Iterator[Mailbox]:
    """The mail server that EMAIL_URL names."""
    port, found = free_port(), Mailbox()
    server = Controller(found, hostname="127.0.0.1", port=port)
    server.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port
    settings.PUBLIC_URL = "https://sms.example.com"
    yield found
    server.stop()


@pytest.fixture
def reader(user):
    """A user who wants e-mails."""
    User.objects.filter(pk=user.pk).update(email_alerts=True, alert_email="ops@example.com")
    user.refresh_from_db()
    return user


def send_all():
    """What a worker does, as often as something is due."""
    while claimed := emails.claim([]):
        for letter in claimed:
            emails.finish(letter, emails.send(letter))


def let_time_pass():
    Notice.objects.filter(email_due_at__isnull=False).update(email_due_at=Now())


def text_of(letter, kind="plain"):
    return letter.get_body((kind,)).get_content()


def test_a_low_balance_is_told_by_e_mail_at_once_and_once(reader, mailbox):
    for _ in range(3):
        notices.tell_user(reader.pk, "balance.low", "", "Your balance is low: 3 KES is left.")
        send_all()

    (letter,) = mailbox.letters
    assert letter["To"] == "ops@example.com"
    assert letter["Subject"] == "[SMS Portal] Your balance is low"
    for kind in ("plain", "html"):
        assert "3 KES is left" in text_of(letter, kind)


def test_failed_messages_are_one_letter_some_minutes_later(reader, mailbox):
    ids = [uuid7() for _ in range(25)]
    for outbox_id in ids:
        notices.tell_of_messages(reader.pk, "sms.failed", "Messages failed.", [outbox_id])
    send_all()
    assert mailbox.letters == []
    let_time_pass()
    send_all()

    (letter,) = mailbox.letters
    text = text_of(letter)
    assert "25 messages:" in text
    assert text.count("https://sms.example.com/outbox/01") == 20
    assert "and 5 more" in text


def test_what_fails_after_a_letter_is_in_the_next_an_hour_later(reader, mailbox):
    notices.tell_of_messages(reader.pk, "sms.failed", "Messages failed.", [uuid7()])
    let_time_pass()
    (letter,) = emails.claim([])
    notices.tell_of_messages(reader.pk, "sms.failed", "Messages failed.", [uuid7()])  # while it is on its way
    emails.finish(letter, emails.send(letter))

    due = Notice.objects.annotate(pause=F("email_due_at") - Now()).get()
    assert timedelta(minutes=59) < due.pause <= timedelta(hours=1)
    let_time_pass()
    send_all()
    let_time_pass()
    send_all()

    assert len(mailbox.letters) == 2
    assert mailbox.letters[0]["Message-ID"] != mailbox.letters[1]["Message-ID"]
    assert "2 messages:" in text_of(mailbox.letters[1])


def test_what_ends_and_begins_again_and_again_is_one_letter_an_hour(reader, mailbox):
    for _ in range(5):
        notices.tell_user(reader.pk, "balance.low", "", "Low.")
        send_all()
        notices.end_for_user(reader.pk, "balance.low", "")
    assert len(mailbox.letters) == 1

    Notice.objects.filter(emailed_at__isnull=False).update(emailed_at=Now() - timedelta(hours=1))
    notices.tell_user(reader.pk, "balance.low", "", "Low.")
    send_all()

    assert len(mailbox.letters) == 2


def test_what_is_over_or_read_before_the_letter_goes_is_not_sent(reader, mailbox):
    notices.tell_user(reader.pk, "balance.low", "", "Low.")
    notices.end_for_user(reader.pk, "balance.low", "")
    outbox_id = uuid7()
    notices.tell_of_messages(reader.pk, "sms.failed", "Messages failed.", [outbox_id])
    notices.withdraw_messages("sms.failed", [outbox_id])
    notices.tell_of_messages(reader.pk, "sms.failed", "Messages failed.", [uuid7()])
    notices.read(Notice.objects.get(ended_at=None))
    let_time_pass()
    send_all()

    assert mailbox.letters == []


def test_who_wants_no_e_mails_or_has_no_address_gets_none(user, mailbox):
    notices.tell_user(user.pk, "balance.low", "", "Low.")
    User.objects.update(email_alerts=True)
    notices.tell_user(user.pk, "webhook.disabled", "x", "Disabled.")
    let_time_pass()
    send_all()

    assert mailbox.letters == []


@pytest.mark.parametrize("trouble", ["451 try again", "554 no"])
def test_a_letter_that_the_server_refuses_is_sent_later_with_the_same_id(reader, mailbox, trouble):
    notices.tell_user(reader.pk, "balance.low", "", "Low.")
    mailbox.refuses = trouble
    (first,) = emails.claim([])
    emails.finish(first, emails.send(first))
    assert emails.claim([]) == []
    mailbox.refuses = None
    let_time_pass()
    send_all()

    (letter,) = mailbox.letters
    assert letter["Message-ID"] == first.message_id
    assert Notice.objects.get().emailed_at is not None


def test_a_server_that_is_away_is_tried_again(reader, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    notices.tell_user(reader.pk, "balance.low", "", "Low.")
    for attempt in (1, 2, 3):
        let_time_pass()
        send_all()
        due = Notice.objects.annotate(pause=F("email_due_at") - Now()).get()
        assert due.email_attempts == attempt
        assert timedelta(minutes=2**attempt - 1) < due.pause <= timedelta(minutes=2**attempt)


@pytest.mark.django_db(transaction=True)
def test_several_workers_send_one_letter(reader, mailbox):
    notices.tell_user(reader.pk, "balance.low", "", "Low.")

    at_once(4, lambda _: send_all())

    assert len(mailbox.letters) == 1


def test_a_worker_that_dies_leaves_its_letter_to_another(reader, mailbox):
    notices.tell_user(reader.pk, "balance.low", "", "Low.")
    (lost,) = emails.claim([])
    assert emails.claim([]) == []
    let_time_pass()  # its lease is over
    send_all()
    emails.finish(lost, "SMTPServerDisconnected")  # it wakes: another has sent it

    assert len(mailbox.letters) == 1
    assert Notice.objects.get().email_due_at is None


def test_a_letter_holds_no_line_of_somebody_elses(reader, mailbox):
    notices.tell_user(reader.pk, "balance.low", "", "Low.\r\nBcc: victim@example.com <script>alert(1)</script>")
    send_all()

    (letter,) = mailbox.letters
    assert letter["Bcc"] is None
    assert "<script>" not in text_of(letter, "html")


def test_a_letter_that_has_been_refused_for_months_is_tried_again_and_ends_no_worker(reader, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    notices.tell_user(reader.pk, "balance.low", "", "Low.")
    Notice.objects.update(email_attempts=5_000)  # two to the power of that is no float
    send_all()

    due = Notice.objects.annotate(pause=F("email_due_at") - Now()).get()
    assert timedelta(minutes=59) < due.pause <= timedelta(hours=1)


def test_notices_that_are_over_are_forgotten_after_three_months(reader):
    for age, is_over in ((91, True), (89, True), (91, False)):
        notices.tell_user(reader.pk, "test", str((age, is_over)), "Look at it.")
        ended_at = Now() - timedelta(days=age) if is_over else None
        Notice.objects.filter(about=str((age, is_over))).update(ended_at=ended_at)

    assert notices.purge() == 1

    assert Notice.objects.count() == 2
