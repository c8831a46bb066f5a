"""Every error below /api/ as `application/problem+json` (RFC 9457), whichever layer it comes from."""

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, InternalError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from smsportal.api.serializers import money_number
from smsportal.exceptions import DomainError
from smsportal.logs import request_id

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2
NO_SUCH_ADDRESS = "There is no such address; /api/docs lists them. None of them ends in a slash."


@dataclass(frozen=True)
class Kind:
    """One code of the API: its status, its title and what the caller does about it."""

    status: int
    title: str
    advice: str


KINDS = {
    "invalid": Kind(400, "Invalid input", "Mend what is named in `errors`; nothing was done."),
    "unauthorized": Kind(
        401, "Not authenticated", "Send `Authorization: Bearer <key>` with a key that is neither expired nor revoked."
    ),
    "insufficient_balance": Kind(402, "Insufficient balance", "Top up, then resend the entry given in `outbox`."),
    "forbidden": Kind(403, "Forbidden", "This caller may not do that."),
    "scope_missing": Kind(403, "Scope missing", "Use a key that has the scope given in `scope`."),
    "acting_for_others_not_allowed": Kind(
        403, "Acting for others not allowed", "Leave `userId` out, or use a key that may act for other users."
    ),
    "sender_id_not_allowed": Kind(
        403, "Sender ID not allowed", "Leave `senderId` out, or have it approved first: see /settings/sender-ids/."
    ),
    "recipient_not_allowed": Kind(
        403, "Recipient not allowed", "This number does not want messages, or its country is not open to this account."
    ),
    "not_found": Kind(404, "Not found", "There is no such thing, or it is not yours."),
    "method_not_allowed": Kind(405, "Method not allowed", "Use one of the methods in `Allow`."),
    "too_slow": Kind(408, "Too slow", "Send the whole request within 10 seconds."),
    "in_flight": Kind(409, "In flight", "The first request with this key is not done; ask again in a moment."),
    "not_failed": Kind(409, "Not failed", "Only a failed message is sent again; see `outbox` and `outcome`."),
    "retry_limit_reached": Kind(409, "Retry limit reached", "The message was sent again as often as is allowed."),
    "not_cancellable": Kind(409, "Not cancellable", "A provider may have the message already; see `outbox`."),
    "duplicate_message": Kind(
        409, "Duplicate message", "The same text went to this number a moment ago: see `duplicateOf`."
    ),
    "too_many_webhooks": Kind(409, "Too many webhooks", "Remove a webhook before you add another."),
    "body_too_large": Kind(413, "Body too large", "Send less."),
    "unsupported_media_type": Kind(415, "Unsupported media type", "Send `application/json` in UTF-8."),
    "no_price": Kind(422, "No price", "There is no price for this destination; ask the operator for one."),
    "max_total_cost_exceeded": Kind(422, "Maximum cost exceeded", "Shorten the message or raise `maxTotalCost`."),
    "too_many_segments": Kind(422, "Too many segments", "Shorten the message."),
    "idempotency_key_reused": Kind(422, "Idempotency key reused", "Use a new key for a new request."),
    "rate_limited": Kind(
        429, "Too many requests", "Wait for `retryAfter` seconds; `limit` says which limit it was. Nothing was done."
    ),
    "internal_error": Kind(500, "Internal error", "Not your fault. Repeat with the same `Idempotency-Key`."),
    "unavailable": Kind(503, "Unavailable", "Repeat with the same `Idempotency-Key` after `Retry-After` seconds."),
}
# What an error that knows only its HTTP status is called.
CODE_OF_STATUS = {kind.status: code for code, kind in reversed(KINDS.items())} | {409: "in_flight", 422: "invalid"}


def problem(code: str, detail: str | None = None, **members: Any) -> dict[str, Any]:
    """The body of a problem: `code` from KINDS, `detail` a sentence about this very case, members beside them."""
    kind = KINDS[code]
    return {
        "type": f"/api/errors#{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail or kind.advice,
        "code": code,
        **({"requestId": request_id()} if request_id() else {}),
        **{name: money_number(value) if isinstance(value, Decimal) else value for name, value in members.items()},
    }


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Answer an error of a view; None for one that is nobody's to answer, which becomes a 500."""
    headers: dict[str, str] = {}
    match error:
        case DomainError():
            body = problem(error.code, error.message, **error.members)
            if (retry_after_s := error.members.get("retryAfter")) is not None:
                headers["Retry-After"] = str(retry_after_s)
        case exceptions.ValidationError():
            body = problem("invalid", errors=list(_field_errors(error.get_full_details())))
        case OperationalError() | InterfaceError() | InternalError():
            # InternalError: a database that is only to be read, as after a failover.
            logger.error("database unavailable: %s", type(error.__cause__ or error).__name__)
            body, headers = problem("unavailable"), {"Retry-After": str(RETRY_SECONDS)}
        case Http404():
            body = problem("not_found")
        case PermissionDenied():
            body = problem("forbidden")
        case exceptions.APIException():
            body, headers = _api_problem(error)
        case _:
            return None
    set_rollback()
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)


def _api_problem(error: exceptions.APIException) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {}
    if authenticate := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = authenticate
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait) + 1)
    code = CODE_OF_STATUS.get(error.status_code, "internal_error")
    # Of all the reasons not to know a caller, none is told; of the others, the advice says more than the reason.
    detail = None if code in ("unauthorized", "method_not_allowed", "unsupported_media_type") else str(error.detail)
    if code == "invalid":
        return problem(code, detail, errors=[]), headers
    return problem(code, detail), headers


def _field_errors(details: Any, field: str = "") -> Iterator[dict[str, str]]:
    """Flatten DRF's nested details into {"field", "code", "message"}; a path's parts are joined by dots."""
    match details:
        case {"message": str(message), "code": str(code)}:
            yield {"field": field, "code": code, "message": message}
        case dict():
            for name, inner in details.items():
                own = "" if name == "non_field_errors" else str(name)
                yield from _field_errors(inner, f"{field}.{own}".strip("."))
        case list():
            for inner in details:
                yield from _field_errors(inner, field)


def is_api(path: str) -> bool:
    """Whether programs ask there: they get problems, people get pages."""
    return path == "/api" or path.startswith("/api/")


class ProblemMiddleware:
    """Rewrites what never reached a view, or broke outside one: Django's own HTML for 400, 404, 405, 413, 500."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if (
            not is_api(request.path)
            or response.status_code < 400
            or response.headers.get("Content-Type") == CONTENT_TYPE
        ):
            return response
        code = CODE_OF_STATUS.get(response.status_code, "internal_error")
        answer = problem_response(code, NO_SUCH_ADDRESS if response.status_code == 404 else None)
        for header, value in response.headers.items():
            if header not in ("Content-Type", "Content-Length"):  # what the site says to browsers, and Allow and so on
                answer[header] = value
        return answer


def problem_response(code: str, detail: str | None = None) -> JsonResponse:
    """A problem without DRF, for what is refused before it reaches a view."""
    body = problem(code, detail, errors=[]) if code == "invalid" else problem(code, detail)
    response = JsonResponse(body, status=KINDS[code].status, content_type=CONTENT_TYPE)
    if code == "unavailable":
        response["Retry-After"] = str(RETRY_SECONDS)
    return response


def server_error(request: HttpRequest) -> HttpResponseBase:
    """handler500: a database that is down is a 503 that says when to come back, everything else a 500."""
    from django.views.defaults import server_error as html_server_error

    down = isinstance(sys.exc_info()[1], OperationalError | InterfaceError | InternalError)
    if is_api(request.path):
        return problem_response("unavailable" if down else "internal_error")
    response = html_server_error(request)
    if down:
        response.status_code = 503
        response["Retry-After"] = str(RETRY_SECONDS)
    return response
