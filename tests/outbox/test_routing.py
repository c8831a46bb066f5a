"""Who gets a message, and that mistakes in the settings are found before the first one does."""

import pytest
from django.core import checks

from outbox import routing
from outbox.checks import database_is_named
from outbox.models import Outbox

LOCMEM = "outbox.providers.locmem.Provider"
PROVIDERS = {name: {"BACKEND": LOCMEM} for name in ("a", "b", "c")}


def test_the_longest_prefix_chooses_the_providers(settings):
    settings.SMS_PROVIDERS = PROVIDERS
    settings.SMS_ROUTES = {"default": ["a"], "+254": ["b", "c"], "25471": ["c"]}

    assert routing.providers_for("+447400123456") == ["a"]
    assert routing.providers_for("+254733000001") == ["b", "c"]
    assert routing.providers_for("+254711000001") == ["c"]


def test_without_routes_all_providers_serve_all_numbers(settings):
    settings.SMS_PROVIDERS = PROVIDERS

    assert routing.providers_for("+447400123456") == ["a", "b", "c"]


def test_each_further_attempt_goes_to_the_next_provider_and_round_again(settings):
    settings.SMS_PROVIDERS = PROVIDERS
    settings.SMS_ROUTES = {"+254": ["b", "c"]}

    kenyan, british = Outbox(recipient="+254733000001"), Outbox(recipient="+447400123456")
    assert [routing.choose(kenyan, attempt) for attempt in (1, 2, 3)] == ["b", "c", "b"]
    assert routing.choose(british, 1) is None


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [
        ("SMS_PROVIDERS", {"x": {"BACKEND": "outbox.providers.nowhere.Provider"}}, "outbox.E001"),
        ("SMS_PROVIDERS", {"x": {"BACKEND": "outbox.providers.http.Provider"}}, "outbox.E001"),
        (
            "SMS_PROVIDERS",
            {"x": {"BACKEND": LOCMEM, "OPTIONS": {"colour": 1}}},
            "outbox.E001",
        ),
        ("SMS_PROVIDERS", {"x": {}}, "outbox.E001"),
        ("SMS_PROVIDERS", {"test": {"BACKEND": LOCMEM}}, "outbox.E009"),
        ("SMS_ROUTES", {"+254": ["test"]}, "outbox.E004"),
        *[
            ("SMS_PROVIDERS", {"x": {"BACKEND": LOCMEM, "MESSAGES_PER_SECOND": rate}}, "outbox.E008")
            for rate in (0, -1, "10", True, None, float("nan"), float("inf"))
        ],
        ("SMS_ROUTES", {"abc": ["locmem"]}, "outbox.E002"),
        ("SMS_ROUTES", {"+254": []}, "outbox.E003"),
        ("SMS_ROUTES", {"+254": "locmem"}, "outbox.E003"),
        ("SMS_ROUTES", {"+254": ["nobody"]}, "outbox.E004"),
        ("SMS_DEFAULT_REGION", "Kenya", "outbox.E005"),
        ("SMS_CURRENCY", "kes", "outbox.E006"),
        ("SMS_MAX_SEGMENTS", 0, "outbox.E006"),
        ("SMS_MAX_SEGMENTS", 256, "outbox.E006"),
        ("SMS_VALIDITY_MINUTES", 0, "outbox.E006"),
        ("TRUSTED_PROXIES", -1, "smsportal.E002"),
        ("SMS_LOW_BALANCE_THRESHOLD", "ten", "outbox.E006"),
    ],
)
def test_a_mistake_in_the_settings_is_found_before_the_first_message(settings, setting, value, found):
    setattr(settings, setting, value)

    assert found in {problem.id for problem in checks.run_checks()}


def test_the_tests_own_settings_are_without_mistakes(db):
    assert checks.run_checks() == []


def test_a_missing_database_is_found_too(monkeypatch):
    from django.conf import settings

    monkeypatch.setattr(settings, "DATABASES", {})

    assert "smsportal.E001" in {problem.id for problem in database_is_named(None)}
