"""Which provider gets a message."""

from django.conf import settings

from billing.pricing import prefix_of


def providers_for(recipient: str) -> list[str]:
    """Names of the providers for a number, the preferred first: SMS_ROUTES, longest prefix; all when it is empty."""
    routes = {prefix_of(prefix): names for prefix, names in settings.SMS_ROUTES.items()}
    digits = recipient.removeprefix("+")
    for length in range(len(digits), -1, -1):
        if names := routes.get(digits[:length]):
            return names
    return [] if routes else list(settings.SMS_PROVIDERS)


def choose(recipient: str, attempt_number: int) -> str | None:
    """The provider of a message's n-th attempt: after a provable non-send the next in line, and round again."""
    names = providers_for(recipient)
    return names[(attempt_number - 1) % len(names)] if names else None
