"""What the staff see of providers and dispatchers, and do about them."""

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from outbox import circuits, sending
from outbox.dispatch import Dispatcher
from outbox.models import ProviderState
from outbox.providers.base import Unavailable

PROVIDERS = reverse("admin:outbox_providerstate_changelist")
MAY_OPERATE = ("outbox.view_providerstate", "outbox.operate_provider")


def page(name):
    return reverse(f"admin:outbox_providerstate_{name}", args=["locmem"])


@pytest.fixture
def waiting(account, provider):
    """One message for a provider that is known to the portal."""
    circuits.record("locmem", [])
    return sending.send(account.user, recipient="+254711000001", text="x")


def test_a_paused_provider_is_shown_with_its_reason_and_its_queue(admin_site, waiting):
    circuits.record("locmem", [Unavailable("The provider says that we have no credit.", refuses_us=True)])

    shown = admin_site.get(PROVIDERS).content.decode()

    assert "paused" in shown
    assert "The provider says that we have no credit." in shown
    assert '<td class="field-waiting">1</td>' in shown
    assert "1 unavailable" in admin_site.get(page("change")).content.decode()


def test_the_staff_stop_and_start_a_provider_with_a_reason(staff_with, waiting, provider):
    site = staff_with(*MAY_OPERATE)
    assert "1 waits for it now" in site.get(page("stop")).content.decode()
    assert ProviderState.objects.get(provider="locmem").circuit == "closed"  # asking did nothing

    site.post(page("stop"), {"reason": ""})
    assert ProviderState.objects.get(provider="locmem").circuit == "closed"
    site.post(page("stop"), {"reason": "their maintenance"})
    Dispatcher(concurrency=1).run(once=True)
    assert (ProviderState.objects.get(provider="locmem").circuit, provider.messages) == ("stopped", [])
    assert "Stop: their maintenance" in LogEntry.objects.get().change_message

    site.post(page("start"), {"reason": "it is over"})
    Dispatcher(concurrency=1).run(once=True)
    assert (ProviderState.objects.get(provider="locmem").circuit, len(provider.messages)) == ("closed", 1)
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize("permissions", [(), MAY_OPERATE[:1], MAY_OPERATE[1:]])
@pytest.mark.parametrize("name", ["stop", "start"])
def test_only_those_who_may_stop_a_provider(staff_with, waiting, permissions, name):
    site = staff_with(*permissions)

    assert site.get(page(name)).status_code == 403
    assert site.post(page(name), {"reason": "x"}).status_code == 403
    assert ProviderState.objects.get(provider="locmem").circuit == "closed"


def test_a_provider_that_nobody_knows_cannot_be_stopped(admin_site, db):
    assert admin_site.post(page("stop"), {"reason": "x"}).status_code == 404
    assert not ProviderState.objects.exists()
