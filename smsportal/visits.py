"""What all pages of the site share: somebody is logged in."""

from collections.abc import Callable

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_http_methods

from smsportal.models import User


class Visit(HttpRequest):
    """A request of somebody who is logged in."""

    user: User


Page = Callable[..., HttpResponse]


def page(*methods: str) -> Callable[[Page], Page]:
    """Log in first; then only these methods."""
    return lambda view: login_required(require_http_methods(methods)(view))
