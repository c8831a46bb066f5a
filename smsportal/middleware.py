"""What every request and every page of the site carries."""

import logging
import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import add_never_cache_headers

from smsportal import logs
from smsportal.models import ApiKey

Handler = Callable[[HttpRequest], HttpResponseBase]

logger = logging.getLogger(__name__)

WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{16,64}")  # longer than any number; a key is refused by its prefix
KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
QUIET = ("/healthz", "/readyz", "/metrics", "/static/")  # machines ask for them all day


def logged(get_response: Handler) -> Handler:
    """Give each request an id, which its answer, its problem and its log lines bear, and write one line about it.

    The id is the caller's `X-Request-Id` when that is well-formed, so that its logs and ours can be laid together.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        structlog.contextvars.clear_contextvars()
        request_id = _request_id(request)
        logs.about(request_id=request_id)
        begun = time.monotonic()
        response = get_response(request)
        response.headers["X-Request-Id"] = request_id
        # Of the site's users, only those that the page asked for: no query is made for the log's sake.
        user = getattr(request, "_cached_user", None)
        if user is not None and user.is_authenticated:
            logs.about(user=str(user.pk))
        if not request.path_info.startswith(QUIET):
            facts = {
                "method": request.method if request.method in KNOWN_METHODS else "other",
                "route": logs.route_of(request),
                "status": response.status_code,
                "ms": round((time.monotonic() - begun) * 1000, 1),
            }
            logger.info("request", extra=facts)
        return response

    return middleware


def _request_id(request: HttpRequest) -> str:
    given = request.headers.get("X-Request-Id", "")
    if WELL_FORMED.fullmatch(given) and not given.startswith(ApiKey.PREFIX):
        return given
    return new_request_id()


def new_request_id() -> str:
    return uuid.uuid4().hex


def private_pages(get_response: Handler) -> Handler:
    """Keep pages, answers and keys out of every cache: all of them are one person's own."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        add_never_cache_headers(response)
        return response

    return middleware
