"""Mistakes in the settings, found before the first message is."""

import re
from typing import Any

import phonenumbers
from django.conf import settings
from django.core import checks

from billing.pricing import prefix_of
from outbox.providers import TEST_PROVIDER, get_provider
from outbox.validation import MAX_VALIDITY_MINUTES

LIMITS = [
    *("SMS_RATE_LIMIT_PER_MINUTE", "SMS_KEY_RATE_LIMIT_PER_MINUTE", "SMS_RECIPIENT_LIMIT_PER_MINUTE"),
    *("SMS_RECIPIENT_LIMIT_PER_HOUR", "SMS_PREFIX_LIMIT_PER_MINUTE", "SMS_OTP_COOL_DOWN_S", "BAD_KEYS_PER_MINUTE"),
]


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
    if TEST_PROVIDER in settings.SMS_PROVIDERS:
        text = f"SMS_PROVIDERS: {TEST_PROVIDER!r} is the name of the simulator for test keys: choose another."
        problems.append(checks.Error(text, id="outbox.E009"))
    for name, spec in settings.SMS_PROVIDERS.items():
        rate = spec.get("MESSAGES_PER_SECOND", 1)
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.01 <= rate <= 100_000:
            text = f"SMS_PROVIDERS: {name}: MESSAGES_PER_SECOND: a number from 0.01 to 100000."
            problems.append(checks.Error(text, id="outbox.E008"))
        if not re.fullmatch(r"[A-Za-z0-9._~-]{1,64}", name):  # it becomes a part of the receipts' address
            text = f"SMS_PROVIDERS: {name!r}: use 1 to 64 letters, digits and . _ ~ - as a name."
            problems.append(checks.Error(text, id="outbox.E007"))
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


@checks.register
def region_is_one(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    region = settings.SMS_DEFAULT_REGION
    if not region or region in phonenumbers.SUPPORTED_REGIONS:
        return []
    return [checks.Error(f"SMS_DEFAULT_REGION: {region!r} is no region; give two letters, as KE.", id="outbox.E005")]


@checks.register
def numbers_are_in_range(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    wrong = {
        "SMS_CURRENCY: give three capital letters, as KES.": not re.fullmatch("[A-Z]{3}", settings.SMS_CURRENCY),
        "SMS_MAX_SEGMENTS: from 1 to 255.": not 1 <= settings.SMS_MAX_SEGMENTS <= 255,
        "SMS_MAX_RETRIES: from 0 to 1000.": not 0 <= settings.SMS_MAX_RETRIES <= 1000,
        "SMS_VALIDITY_MINUTES: from 1 to 10080.": not 1 <= settings.SMS_VALIDITY_MINUTES <= MAX_VALIDITY_MINUTES,
        "SMS_UNKNOWN_AFTER_HOURS: from 1 to 8760.": not 1 <= settings.SMS_UNKNOWN_AFTER_HOURS <= 8760,
        "WEB_THREADS: from 1 to 1000.": not 1 <= settings.WEB_THREADS <= 1000,
        "SMS_LOW_BALANCE_THRESHOLD: a number.": not re.fullmatch(
            r"[0-9]{1,10}(\.[0-9]{1,4})?", settings.SMS_LOW_BALANCE_THRESHOLD
        ),
        "SMS_DUPLICATE_GUARD: off, warn or refuse.": settings.SMS_DUPLICATE_GUARD not in ("off", "warn", "refuse"),
        "SMS_DUPLICATE_WINDOW_S: from 1 to 86400.": not 1 <= settings.SMS_DUPLICATE_WINDOW_S <= 86_400,
    }
    wrong |= {f"{name}: 0 or more.": getattr(settings, name) < 0 for name in LIMITS}
    return [checks.Error(sentence, id="outbox.E006") for sentence, is_wrong in wrong.items() if is_wrong]


@checks.register(checks.Tags.security, deploy=True)
def somebody_sends(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    if settings.SMS_PROVIDERS:
        return []
    return [checks.Warning("SMS_PROVIDERS is empty: no message can be sent.", id="outbox.W001")]


@checks.register(checks.Tags.security, deploy=True)
def figures_are_for_some(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    if settings.METRICS_TOKEN:
        return []
    return [checks.Warning("METRICS_TOKEN is not set: anybody can read /metrics.", id="outbox.W002")]
