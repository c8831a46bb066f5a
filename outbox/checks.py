"""Mistakes in the settings, found before the first message is."""

from typing import Any

from django.conf import settings
from django.core import checks

from billing.pricing import prefix_of
from outbox.providers import get_provider


@checks.register
def database_is_named(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    if settings.DATABASES:
        return []
    return [
        checks.Error(
            "DATABASE_URL is not set.",
            hint="Set it, for example postgresql://user:password@host/name. Only `demo` brings a database of its own.",
            id="smsportal.E001",
        )
    ]


@checks.register
def providers_can_be_made(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    problems: list[checks.CheckMessage] = []
    for name in settings.SMS_PROVIDERS:
        try:
            get_provider(name)
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the operator should read it here
            problems.append(checks.Error(f"SMS_PROVIDERS: {name}: {error}", id="outbox.E001"))
    return problems


@checks.register
def routes_lead_somewhere(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    problems: list[checks.CheckMessage] = []
    for prefix, names in settings.SMS_ROUTES.items():
        try:
            prefix_of(prefix)
        except ValueError as error:
            problems.append(checks.Error(f"SMS_ROUTES: {error}", id="outbox.E002"))
        if not isinstance(names, list) or not names:
            problems.append(checks.Error(f"SMS_ROUTES: {prefix}: give a list of names.", id="outbox.E003"))
        elif unknown := [name for name in names if name not in settings.SMS_PROVIDERS]:
            problems.append(checks.Error(f"SMS_ROUTES: {prefix}: no such provider: {unknown}.", id="outbox.E004"))
    return problems


@checks.register(checks.Tags.security, deploy=True)
def somebody_sends(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    if settings.SMS_PROVIDERS:
        return []
    return [checks.Warning("SMS_PROVIDERS is empty: no message can be sent.", id="outbox.W001")]
