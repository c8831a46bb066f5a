"""What the tests run in, set before Django reads its settings: PostgreSQL, and settings that no machine can change."""

import contextlib
import os

import pytest

from smsportal import embedded_postgres

SETTINGS = {
    "SECRET_KEY": "only-for-tests",
    "ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
    "DEBUG": "false",
    "SERVE_STATIC_FROM_SOURCE": "true",
    "PUBLIC_URL": "http://testserver",
    "TRUSTED_PROXIES": "0",
    "STAFF_TOTP": "optional",
    "SMS_CURRENCY": "KES",
    "SMS_DEFAULT_REGION": "KE",
    "SMS_PROVIDERS": '{"locmem": {"BACKEND": "outbox.providers.locmem.Provider"}}',
    "SMS_ROUTES": "{}",
    "SMS_MAX_RETRIES": "3",
    "SMS_MAX_SEGMENTS": "6",
    "SMS_VALIDITY_MINUTES": "1440",
    "SMS_UNKNOWN_AFTER_HOURS": "72",
    "SMS_LOW_BALANCE_THRESHOLD": "1",
    "SMS_RATE_LIMIT_PER_MINUTE": "6000",
    "SMS_KEY_RATE_LIMIT_PER_MINUTE": "0",
    "SMS_RECIPIENT_LIMIT_PER_MINUTE": "0",
    "SMS_RECIPIENT_LIMIT_PER_HOUR": "0",
    "SMS_PREFIX_LIMIT_PER_MINUTE": "0",
    "SMS_OTP_COOL_DOWN_S": "0",
    "SMS_DUPLICATE_GUARD": "off",
    "SMS_DUPLICATE_WINDOW_S": "60",
    "BAD_KEYS_PER_MINUTE": "100",
    "METRICS_TOKEN": "",
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
}

_running = contextlib.ExitStack()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    os.environ.update(SETTINGS)
    if "DATABASE_URL" not in os.environ:
        os.environ["DATABASE_URL"] = _running.enter_context(embedded_postgres.temporary_cluster()).url


def pytest_unconfigure() -> None:
    _running.close()
