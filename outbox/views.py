"""The API of the outbox: read, call, answer."""

import re
import threading
import time
import uuid
from typing import Any, cast

from django.core.exceptions import ValidationError as InvalidMessage
from django.db import InterfaceError, OperationalError
from django.db.models import QuerySet
from django.http import Http404, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.exceptions import ErrorDetail, ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.serializers import Serializer

from outbox import export, idempotency, limits, sending, validation
from outbox.exceptions import AboutEntry
from outbox.filters import OutboxFilter
from outbox.models import Outbox
from outbox.serializers import (
    OutboxDetailSerializer,
    OutboxPageSerializer,
    OutboxSerializer,
    QuoteSerializer,
    ResendSerializer,
    SendSerializer,
)
from smsportal import logs
from smsportal.api import examples
from smsportal.api.authentication import caller, may_act_for_others
from smsportal.api.pagination import KeysetPagination
from smsportal.api.schema import Answer, problems
from smsportal.exceptions import DomainError
from smsportal.models import ApiKey, User

MAX_WAIT_S = 30
WAIT_POLL_S = 0.05
# A caller that waits keeps a thread of the web server; the others must always find one.
waiting_room = threading.BoundedSemaphore(8)

WAIT = OpenApiParameter(
    "Prefer",
    str,
    OpenApiParameter.HEADER,
    description="`wait=N`: answer when the outcome is known, or after N seconds; at most 30.",
)
LOCATION = OpenApiParameter(
    "Location", str, OpenApiParameter.HEADER, response=[201], description="The address of the entry."
)
REPLAYED = OpenApiParameter(
    "Idempotent-Replayed",
    {"type": "string", "enum": ["true"]},
    OpenApiParameter.HEADER,
    response=[200],
    description="There when this request was answered before.",
)
REPEATED = "The same request as before, by its `Idempotency-Key` or `messageId`: the entry as it now stands."
# What can be done with an entry.
ABOUT_ENTRY = {
    "getOutboxEntry": {"outboxId": "/outboxId"},
    "cancel": {"outboxId": "/outboxId"},
    "resend": {"body.outboxId": "/outboxId"},
}
RESEND_FIRST = {"resend": {"body.outboxId": "/results/0/outboxId"}}
USER_ID = OpenApiParameter("userId", uuid.UUID, description="Of this user; for keys that may act for others.")
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "pattern": r"^[!-+\--~]([ -+\--~]{0,253}[!-+\--~])?$"},
    OpenApiParameter.HEADER,
    description="1 to 255 printable ASCII characters, no comma. The same key and body again: 200 and the same entry.",
)

DUPLICATE_OF = OpenApiParameter(
    "X-Duplicate-Of",
    uuid.UUID,
    OpenApiParameter.HEADER,
    response=[201],
    description="`outboxId` of a message with the same text to the same number, accepted a moment ago.",
)


class ActingForOthersNotAllowed(DomainError):
    code = "acting_for_others_not_allowed"


class SenderIdNotOfThisKey(DomainError):
    code = "sender_id_not_allowed"


def user_acted_for(request: Request, user_id: uuid.UUID | None) -> User:
    """The user a request is about: the caller, or for a key that may act for others the one it names."""
    if user_id is None or user_id == caller(request).live_id:
        return caller(request)
    if not may_act_for_others(request):
        raise ActingForOthersNotAllowed("This key may not act for another user.")
    user = User.objects.filter(pk=user_id, is_active=True, live_user=None).first()
    if user is None:
        raise ValidationError({"userId": "There is no such user."}, code="no_such_user")
    return user


def refuse_sender_id_of_other_keys(request: Request, sender_id: str | None) -> None:
    """A key may be bound to some of its user's sender IDs; None, the provider's own, is not among them."""
    if isinstance(request.auth, ApiKey) and not request.auth.may_send_as(sender_id):
        allowed = ", ".join(request.auth.allowed_sender_ids)
        raise SenderIdNotOfThisKey(f"This key may send as {allowed} only.")


def entry_or_404(request: Request, outbox_id: str) -> Outbox:
    """The caller's entry; another's is as unknown as one that does not exist."""
    visible = Outbox.objects.filter(is_test=False) if may_act_for_others(request) else caller(request).outbox.all()
    try:
        entry = visible.explained().select_related("user__live_user").get(pk=uuid.UUID(outbox_id))
    except (ValueError, Outbox.DoesNotExist) as error:
        raise Http404 from error
    logs.about(outbox=str(entry.pk))
    return entry


class SendingView(GenericAPIView):
    """What send and resend share: repeated requests, errors about an entry, and waiting for the outcome."""

    scope = ApiKey.Scope.SEND

    def repeatable(self, request: Request, operation: str) -> idempotency.Request:
        key = request.headers.get("Idempotency-Key")
        try:
            key = validation.clean_idempotency_key(key) if key is not None else None
        except InvalidMessage as error:
            raise ValidationError({"Idempotency-Key": error.messages}, code=error.code) from error
        return idempotency.Request(
            caller(request),
            idempotency.fingerprint(operation, cast(dict[str, Any], request.data)),
            key,
            request.auth.pk if isinstance(request.auth, ApiKey) else None,
        )

    def handle_exception(self, exc: Exception) -> Response:
        match exc:
            case idempotency.Repeated():
                return self.answer(self.request, exc.entry, status.HTTP_200_OK, {"Idempotent-Replayed": "true"})
            case AboutEntry():
                logs.about(outbox=str(exc.entry.pk))
                exc.members["outbox"] = OutboxSerializer(exc.entry).data
            case InvalidMessage():
                names = {field.source: name for name, field in cast(Serializer, self.get_serializer()).fields.items()}
                exc = ValidationError(
                    {
                        names[field]: [ErrorDetail(error.messages[0], error.code) for error in errors]
                        for field, errors in exc.error_dict.items()
                    }
                )
        return super().handle_exception(exc)

    def answer(self, request: Request, entry: Outbox, status_code: int, headers: dict[str, str]) -> Response:
        logs.about(outbox=str(entry.pk))
        entry = wait_for_outcome(request, entry)
        return Response(OutboxSerializer(entry).data, status=status_code, headers=headers)


class SendView(SendingView):
    """Send one message."""

    serializer_class = SendSerializer

    @extend_schema(
        operation_id="send",
        summary="Send a message",
        parameters=[IDEMPOTENCY_KEY, WAIT, LOCATION, REPLAYED, DUPLICATE_OF],
        examples=[OpenApiExample("A code", examples.SEND, request_only=True)],
        responses={
            201: Answer(OutboxSerializer, "It is accepted: logged, and its money held.", examples.ENTRY, ABOUT_ENTRY),
            200: Answer(OutboxSerializer, REPEATED, examples.ENTRY, ABOUT_ENTRY),
            **problems(
                "invalid",
                "insufficient_balance",
                "acting_for_others_not_allowed",
                "sender_id_not_allowed",
                "recipient_not_allowed",
                "in_flight",
                "duplicate_message",
                "body_too_large",
                "unsupported_media_type",
                "no_price",
                "max_total_cost_exceeded",
                "too_many_segments",
                "idempotency_key_reused",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        """Accept a message: it is logged and its money is held when the answer comes; a provider gets it after that."""
        repeatable = self.repeatable(request, "send")
        repeatable.refuse_repeated()  # before the checks: what was in the future then may be past by now
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        message = serializer.validated_data
        user = user_acted_for(request, message.pop("user_id", None))
        refuse_sender_id_of_other_keys(request, sending.sender_id_of(user, message))
        entry = sending.send(user, **message, request=repeatable)
        headers = {"Location": reverse("outbox-api:detail", [entry.pk])}
        if duplicate_of := limits.duplicate_of(entry):
            headers["X-Duplicate-Of"] = str(duplicate_of.pk)
        return self.answer(request, entry, status.HTTP_201_CREATED, headers)


class QuoteView(SendingView):
    """What a message would cost."""

    serializer_class = SendSerializer

    @extend_schema(
        operation_id="quote",
        summary="Ask what a message would cost",
        examples=[OpenApiExample("A code", examples.QUOTE_OF, request_only=True)],
        responses={
            200: Answer(QuoteSerializer, "What it would cost at this moment.", examples.QUOTE),
            **problems(
                "invalid",
                "acting_for_others_not_allowed",
                "sender_id_not_allowed",
                "recipient_not_allowed",
                "body_too_large",
                "unsupported_media_type",
                "no_price",
                "max_total_cost_exceeded",
                "too_many_segments",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        """The same checks and the same price as for sending it at this moment; nothing is stored, held or sent."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        message = serializer.validated_data
        user = user_acted_for(request, message.pop("user_id", None))
        refuse_sender_id_of_other_keys(request, sending.sender_id_of(user, message))
        _, quoted = sending.check(user, **message)
        return Response(QuoteSerializer(quoted).data)


class ResendView(SendingView):
    """Send a failed message again."""

    serializer_class = ResendSerializer

    @extend_schema(
        operation_id="resend",
        summary="Send a failed message again",
        parameters=[IDEMPOTENCY_KEY, WAIT, REPLAYED],
        examples=[OpenApiExample("Once more", examples.RESEND, request_only=True)],
        responses={
            200: Answer(OutboxSerializer, "It waits for a provider again.", examples.RESENT, ABOUT_ENTRY),
            **problems(
                "invalid",
                "insufficient_balance",
                "sender_id_not_allowed",
                "recipient_not_allowed",
                "not_found",
                "not_failed",
                "retry_limit_reached",
                "in_flight",
                "body_too_large",
                "unsupported_media_type",
                "no_price",
                "too_many_segments",
                "idempotency_key_reused",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        """The same entry, tried once more at today's price; of many at once exactly one wins for each failure."""
        repeatable = self.repeatable(request, "resend")
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        entry = entry_or_404(request, serializer.validated_data["outbox_id"])
        refuse_sender_id_of_other_keys(request, entry.sender_id)
        entry = sending.resend(entry, request=repeatable)
        return self.answer(request, entry, status.HTTP_200_OK, {})


class CancelView(SendingView):
    """Withdraw a message that still waits."""

    @extend_schema(
        operation_id="cancel",
        summary="Withdraw a message that still waits",
        request=None,
        responses={
            200: Answer(OutboxSerializer, "It is withdrawn.", examples.CANCELLED, ABOUT_ENTRY),
            **problems("not_found", "not_cancellable"),
        },
    )
    def post(self, request: Request, outboxId: str) -> Response:
        """A message that no provider has been handed fails as `cancelled`, and its money is given back."""
        return Response(OutboxSerializer(sending.cancel(entry_or_404(request, outboxId))).data)


class LogView(GenericAPIView):
    """The log, as far as the caller may see it and the filters let it through."""

    scope = ApiKey.Scope.READ
    filterset_class = OutboxFilter
    queryset = Outbox.objects.none()

    def get_queryset(self) -> QuerySet[Outbox]:
        if getattr(self, "swagger_fake_view", False):
            return super().get_queryset()
        asked = self.request.query_params.get("userId")
        try:
            user_id = uuid.UUID(asked) if asked is not None else None
        except ValueError as error:
            raise ValidationError({"userId": "Must be a user's id."}, code="invalid") from error
        return user_acted_for(self.request, user_id).outbox.explained()


class OutboxListView(LogView):
    """The log."""

    serializer_class = OutboxSerializer

    @extend_schema(
        operation_id="listOutbox",
        summary="Read the log",
        parameters=[
            *OutboxFilter.parameters(),
            USER_ID,
            *KeysetPagination.parameters(),
        ],
        filters=False,
        responses={
            200: Answer(
                OutboxPageSerializer,
                "A page of them.",
                examples.OUTBOX_PAGE,
                {"getOutboxEntry": {"outboxId": "/results/0/outboxId"}, **RESEND_FIRST},
            ),
            **problems("invalid", "acting_for_others_not_allowed"),
        },
    )
    def get(self, request: Request) -> Response:
        """Your messages, newest first. Follow `next` for older ones; there is no total count."""
        OutboxFilter(request.query_params).refuse_typos(["userId", "pageSize", "cursor"])
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class OutboxExportView(LogView):
    """The log as a file."""

    serializer_class = None

    @extend_schema(
        operation_id="exportOutbox",
        summary="Read the log as CSV",
        parameters=[*OutboxFilter.parameters(), USER_ID],
        filters=False,
        responses={
            (200, "text/csv"): Answer(OpenApiTypes.STR, "All of them.", examples.CSV),
            **problems("invalid", "acting_for_others_not_allowed"),
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """All messages that the filters let through, newest first, a row for each; the first row has the names.

        Times are in UTC. A text that a spreadsheet would take for a formula begins with an apostrophe. The text of a
        message tagged `OTP` is left out.
        """
        OutboxFilter(request.query_params).refuse_typos(["userId"])
        rows = export.rows(self.filter_queryset(self.get_queryset()))
        return StreamingHttpResponse(
            rows,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="outbox.csv"'},
        )


class OutboxDetailView(GenericAPIView):
    """One message."""

    scope = ApiKey.Scope.READ
    serializer_class = OutboxDetailSerializer

    @extend_schema(
        operation_id="getOutboxEntry",
        summary="Read one message",
        responses={
            200: Answer(OutboxDetailSerializer, "The message.", examples.DETAIL, ABOUT_ENTRY),
            **problems("not_found"),
        },
    )
    def get(self, request: Request, outboxId: str) -> Response:
        """One message with its attempts and every line of the ledger it caused."""
        return Response(self.get_serializer(entry_or_404(request, outboxId)).data)


def wait_for_outcome(request: Request, entry: Outbox) -> Outbox:
    """For `Prefer: wait=N` (RFC 7240): the entry once nothing more is to be expected soon, or after N seconds.

    A preference, not a duty: when too many callers wait already, the answer comes at once.
    """
    wanted = re.search(r"(?:^|[,;\s])wait=([0-9]{1,4})(?:$|[,;\s])", request.headers.get("Prefer", ""))
    if not wanted or not waiting_room.acquire(blocking=False):
        return entry
    try:
        until = time.monotonic() + min(int(wanted[1]), MAX_WAIT_S)
        while not entry.is_settled() and time.monotonic() < until:
            time.sleep(WAIT_POLL_S)
            try:
                entry.refresh_from_db()
            except (OperationalError, InterfaceError):
                break  # it is accepted, whatever the database does now: an error would have it sent once more
        return entry
    finally:
        waiting_room.release()
