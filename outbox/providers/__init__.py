"""The configured providers, made once a process."""

from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from outbox.providers.base import Provider

# Answers the messages of test keys, and no others: the database knows this name too.
TEST_PROVIDER = "test"
SIMULATOR = "outbox.providers.simulator.Provider"


def provider_names() -> list[str]:
    """All providers that a dispatcher serves: those of SMS_PROVIDERS, and the simulator for test keys."""
    return [*settings.SMS_PROVIDERS, TEST_PROVIDER]


@cache
def get_provider(name: str) -> Provider:
    """The provider of this name. Raises KeyError."""
    configured: dict[str, Any] = {"BACKEND": SIMULATOR} if name == TEST_PROVIDER else settings.SMS_PROVIDERS[name]
    backend = import_string(configured["BACKEND"])
    return backend(name, **configured.get("OPTIONS", {}))  # type: ignore[no-any-return]


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("SMS_PROVIDERS", "PUBLIC_URL"):
        get_provider.cache_clear()


setting_changed.connect(_forget)  # tests change settings
