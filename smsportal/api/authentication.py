"""Who is calling: an app, by its key."""

from typing import NoReturn, cast

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from smsportal import logs, rates
from smsportal.addresses import client_network, proved_address
from smsportal.models import ApiKey, User

# One sentence for a missing, wrong, expired, revoked or misplaced key, so that nobody learns which it was.
REFUSED = "Give a valid API key: Authorization: Bearer <key>."


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer <key>`. A key anywhere in the address is refused: addresses end up in logs."""

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        if any(ApiKey.looks_like_one(value) for values in request.query_params.lists() for value in values[1]):
            _refuse(request)
        header = request.META.get("HTTP_AUTHORIZATION")
        if header is None:
            return None
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer":
            _refuse(request)
        keys = ApiKey.objects.usable().select_related("user__live_user")
        key = keys.filter(digest=ApiKey.digest_of(secret.strip())).first()
        if key is None or not key.may_come_from(proved_address(request)):
            _refuse(request)
        logs.about(user=str(key.user_id), key=key.hint)
        key.note_use()
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


def _refuse(request: Request) -> NoReturn:
    """Count what is no key against the address it came from; a good key of the same address is let in all the same.

    Raises AuthenticationFailed, or RateLimited after too many.
    """
    most = settings.BAD_KEYS_PER_MINUTE
    if most:
        rule = f"At most {most} requests a minute with a wrong key are answered."
        rates.take([rates.Limit("perAddress", client_network(request), most, 60, rule)])
    raise exceptions.AuthenticationFailed(REFUSED)


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = ApiKeyAuthentication
    name = "apiKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


def caller(request: Request) -> User:
    """The user of an authenticated request."""
    return cast(User, request.user)  # IsAuthenticated has let nobody else in


def may_act_for_others(request: Request) -> bool:
    """Whether the caller came with a key that may send and read for any user."""
    return isinstance(request.auth, ApiKey) and request.auth.may_act_for_others
