"""Every address of the site, from Django's own table of them."""

import re
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.urls import URLResolver, get_resolver

ADMIN_ROW = re.compile(r"admin/(\w+)/(\w+)/")


def routes(resolver: URLResolver | None = None, prefix: str = "") -> Iterator[str]:
    """Each pattern whole, such as `outbox/<uuid:outbox_id>/`."""
    for pattern in (resolver or get_resolver()).url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern, route)
        else:
            yield route


def address(route: str, **values: Any) -> str:
    """An address that fits `route`: with the row that `values` name, or else the first that there is."""
    row = ADMIN_ROW.match(route)
    model: Any = apps.get_model(row[1], row[2]) if row and row[1] in apps.app_configs else None
    first = model._default_manager.order_by("pk").first() if model else None
    known = {"object_id": first and first.pk, "key_id": first and first.pk, "user_id": first and first.pk, **values}
    filled = re.sub(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>", lambda found: str(known[found[1] or found[2]]), route)
    return "/" + re.sub(r"[\^$?]", "", filled)
