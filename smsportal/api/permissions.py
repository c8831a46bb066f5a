"""What a caller may do: a key has scopes, and each view names the one it needs."""

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from smsportal.exceptions import DomainError
from smsportal.models import ApiKey


class ScopeMissing(DomainError):
    code = "scope_missing"


def scope_of(view: Any, method: str) -> ApiKey.Scope:
    """What a key needs for a call: the view's `scope`, or to change something `scope_to_change` where it has one."""
    scope: ApiKey.Scope = view.scope  # no default: a view that names none lets nobody in
    return scope if method in SAFE_METHODS else getattr(view, "scope_to_change", scope)


class HasScope(BasePermission):
    """Lets a key in where it has the scope; the site's own sessions have all of them."""

    def has_permission(self, request: Request, view: Any) -> bool:
        scope = scope_of(view, str(request.method))
        if isinstance(request.auth, ApiKey) and scope not in request.auth.scopes:
            raise ScopeMissing(f"This key lacks the scope `{scope}`.", scope=str(scope))
        return True
