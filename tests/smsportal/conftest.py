"""What the tests of the whole site share."""

import pytest
from axes.models import AccessAttempt

from outbox import daily_audit, sending
from outbox.dispatch import Dispatcher
from outbox.models import OptOut, ProtectedName, Receipt
from outbox.providers.base import Rejected
from outbox.workers import Heartbeat
from smsportal import notices
from smsportal.models import ApiKey, WebhookEndpoint
from smsportal.webhooks import events


@pytest.fixture
def one_of_each(account, provider):
    """At least one row in every table of the admin."""
    provider.error = Rejected("unknown subscriber")
    entry = sending.send(account.user, recipient="+254711000001", text="Hello")
    Dispatcher(concurrency=1).run(once=True)
    Receipt.objects.create(provider="locmem", outbox=entry, status="delivered", raw={"a": "<b>"}, effect="repeated")
    ApiKey.issue(account.user, "app")
    Heartbeat().beat(0)
    daily_audit.begin()
    notices.tell_staff("test", "it", "Look at it.")
    endpoint = WebhookEndpoint.objects.create(user=account.user, url="https://hooks.example/", events=["sms.sent"])
    events.record_test(endpoint)
    ProtectedName.objects.create(name="M-Pesa")
    OptOut.objects.create(number="+254711000009", reason="STOP")
    AccessAttempt.objects.create(username="amina", ip_address="203.0.113.7", failures_since_start=5)
