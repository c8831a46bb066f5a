"""A portal for strangers who have read nothing but its documentation."""

import pytest

from tests.portal import running_portal

# Schemathesis calls as often as it can, also with wrong keys.
UNLIMITED = {"BAD_KEYS_PER_MINUTE": "0", "SMS_RATE_LIMIT_PER_MINUTE": "0"}


@pytest.fixture(scope="module")
def portal(cluster, tmp_path_factory):
    with running_portal(tmp_path_factory.mktemp("portal"), cluster.url, **UNLIMITED) as portal:
        portal.manage("top_up", "demo", "100000000", "--reason", "for a great many messages")
        yield portal
