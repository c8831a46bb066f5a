"""The misbehaving provider as the portal's only one, its receipts coming in by the real door."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.running import Running, running_provider


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_provider(tmp_path_factory.mktemp("hostile") / "journal") as running:
        yield running


@pytest.fixture
def hostile(process: Running, live_server: Any, settings: Any) -> Running:
    settings.PUBLIC_URL = live_server.url
    settings.SMS_PROVIDERS = process.settings()
    return process
