"""A client that a generator makes of the schema, with nothing written by hand."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "client_made_of_the_schema"


@pytest.fixture
def client(portal, tmp_path, monkeypatch):
    """The package it makes, importable, and a client of it with the demo's key."""
    made = subprocess.run(
        [
            *(Path(sys.executable).with_name("openapi-python-client"), "generate"),
            *("--url", f"{portal.told['baseUrl']}/api/schema", "--meta", "none"),
            *("--output-path", str(tmp_path / PACKAGE), "--config", str(Path(__file__).with_name("generator.yaml"))),
            "--fail-on-warning",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module(PACKAGE)
    with package.AuthenticatedClient(base_url=portal.told["baseUrl"], token=portal.told["apiKey"]) as client:
        yield client


def of_the_client(name):
    return importlib.import_module(f"{PACKAGE}.{name}")


def test_a_generated_client_sends_a_message_and_sends_a_failed_one_again(client, portal):
    models = of_the_client("models")
    send, resend = of_the_client("api.sms.send"), of_the_client("api.sms.resend")
    detail = of_the_client("api.sms.get_outbox_entry")

    rejected = models.SendRequest(recipient_phone_number="+254712345601", message="Your code is 4321")
    failed = send.sync(client=client, body=rejected, prefer="wait=10")
    again = resend.sync(client=client, body=models.ResendRequest(outbox_id=failed.outbox_id), prefer="wait=10")
    looked_up = detail.sync(failed.outbox_id, client=client)

    assert (failed.status, failed.error_code, failed.retry_count) == ("failed", "provider_rejected", 0)
    assert (again.outbox_id, again.retry_count) == (failed.outbox_id, 1)
    assert [attempt.outcome for attempt in looked_up.attempts] == ["rejected", "rejected"]
    assert portal.log()[str(failed.outbox_id)]["retryCount"] == 1


def test_a_generated_client_understands_what_is_refused(client):
    models = of_the_client("models")
    send = of_the_client("api.sms.send")

    problem = send.sync(client=client, body=models.SendRequest(recipient_phone_number="+254", message="x"))

    assert (problem.code, problem.errors[0].field) == ("invalid", "recipientPhoneNumber")
