"""The configured providers, made once a process."""

from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from outbox.providers.base import Provider


@cache
def get_provider(name: str) -> Provider:
    """The provider called `name` in SMS_PROVIDERS. Raises KeyError."""
    configured = settings.SMS_PROVIDERS[name]
    backend = import_string(configured["BACKEND"])
    return backend(name, **configured.get("OPTIONS", {}))  # type: ignore[no-any-return]


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("SMS_PROVIDERS", "PUBLIC_URL"):
        get_provider.cache_clear()


setting_changed.connect(_forget)  # tests change settings
