"""Mistakes in the settings of the site."""

from typing import Any

from django.conf import settings
from django.core import checks


@checks.register
def settings_are_known(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    wrong = {
        "LOG_FORMAT: json or console.": settings.LOG_FORMAT not in ("json", "console"),
        "STAFF_TOTP: required or optional.": settings.STAFF_TOTP not in ("required", "optional"),
        "TRUSTED_PROXIES: from 0 to 10.": not 0 <= settings.TRUSTED_PROXIES <= 10,
    }
    return [checks.Error(sentence, id="smsportal.E002") for sentence, is_wrong in wrong.items() if is_wrong]


@checks.register(checks.Tags.security, deploy=True)
def clients_are_told_apart(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    if settings.TRUSTED_PROXIES or not settings.SECURE_PROXY_SSL_HEADER:
        return []
    text = (
        "BEHIND_TLS_PROXY without TRUSTED_PROXIES: all clients have the proxy's address, and are locked out together."
    )
    return [checks.Warning(text, id="smsportal.W001")]


@checks.register(checks.Tags.security, deploy=True)
def staff_need_more_than_a_password(app_configs: Any, **kwargs: Any) -> list[checks.CheckMessage]:
    if settings.STAFF_TOTP == "required":
        return []
    text = "STAFF_TOTP is not `required`: a stolen password opens the admin of whoever has set up no second factor."
    return [checks.Warning(text, id="smsportal.W002")]
