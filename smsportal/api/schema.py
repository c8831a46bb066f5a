"""How the API is described in the OpenAPI document: errors from the table that answers them, and what follows what."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension, OpenApiSerializerFieldExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from smsportal.api import examples
from smsportal.api.permissions import scope_of
from smsportal.api.problems import CONTENT_TYPE, KINDS, RETRY_SECONDS, problem
from smsportal.api.serializers import Described, Money, StrictSerializer


class FieldErrorSerializer(serializers.Serializer):
    """What is wrong with one field."""

    field = serializers.CharField(help_text="Name of the field; empty when the body as a whole is at fault.")
    code = serializers.CharField(help_text="A stable word.")
    message = serializers.CharField(help_text="A sentence for a person.")


class ProblemSerializer(serializers.Serializer):
    """RFC 9457. Some codes have further members; /api/errors lists all codes."""

    type = serializers.CharField(help_text="Where the code is explained.")
    title = serializers.CharField(help_text="The code in words.")
    status = serializers.IntegerField(help_text="The HTTP status.")
    detail = serializers.CharField(help_text="A sentence about this very case.")
    code = serializers.ChoiceField(choices=list(KINDS), help_text="A stable word; what to decide by.")
    requestId = serializers.CharField(
        required=False, help_text="As in the header `X-Request-Id`; the operator's log has it too."
    )
    errors = FieldErrorSerializer(  # type: ignore[assignment]  # a member of that name, as RFC 9457 suggests
        many=True, required=False, help_text="With `invalid`: what is wrong, field by field."
    )
    required = Money(  # type: ignore[assignment]  # the member's name
        required=False, help_text="With `insufficient_balance`: what is needed."
    )
    available = Money(required=False, help_text="With `insufficient_balance`: what there is.")
    currency = serializers.CharField(required=False, help_text="Of the money in this answer.")
    totalCost = Money(required=False, help_text="With `max_total_cost_exceeded`.")
    smsUnitsUsed = serializers.IntegerField(required=False, help_text="With `too_many_segments`.")
    retryCount = serializers.IntegerField(required=False, help_text="With `retry_limit_reached`.")
    maxRetries = serializers.IntegerField(required=False, help_text="With `retry_limit_reached`.")
    scope = serializers.CharField(required=False, help_text="With `scope_missing`: the scope that is needed.")
    outcome = serializers.CharField(required=False, allow_null=True, help_text="With `not_failed`: of the entry.")
    limit = serializers.ChoiceField(
        choices=[
            *("perKey", "perUser", "perRecipient", "otpCoolDown", "perPrefix", "dailySpend"),
            *("perAddress", "webhookTests"),
        ],
        required=False,
        help_text="With `rate_limited`: which limit it was.",
    )
    retryAfter = serializers.IntegerField(
        required=False, help_text="With `rate_limited` and `duplicate_message`: seconds, as in `Retry-After`."
    )
    duplicateOf = serializers.UUIDField(
        required=False, allow_null=True, help_text="With `duplicate_message`: `outboxId` of the first, if it is logged."
    )
    outbox = serializers.DictField(
        required=False,
        help_text="With `insufficient_balance`, `not_failed` and `not_cancellable`: the outbox entry as it stands.",
    )


# What any call with a key may meet.
COMMON = (
    *("unauthorized", "forbidden", "scope_missing", "method_not_allowed", "too_slow", "rate_limited"),
    *("internal_error", "unavailable"),
)


def problems(*codes: str) -> dict[tuple[int, str], Any]:
    """Responses for `codes` and for COMMON, by status, each with what it means and an example."""
    by_status = defaultdict(list)
    for code in (*codes, *COMMON):
        by_status[KINDS[code].status].append(code)
    return {
        (status, CONTENT_TYPE): OpenApiResponse(
            ProblemSerializer,
            "\n\n".join(f"`{code}`: {KINDS[code].advice}" for code in found),
            [OpenApiExample(code, problem(code, **examples.MEMBERS.get(code, {}))) for code in found],
        )
        for status, found in sorted(by_status.items())
    }


class Answer(OpenApiResponse):
    """A success: what it means, an example, and the calls that it leads to.

    leads_to: operation id → parameter → where its value stands: a JSON pointer into this answer, or an expression of
    OpenAPI. A parameter `body.x` is the member x of the next call's body.
    """

    def __init__(
        self,
        response: Any,
        description: str,
        example: Any = None,
        leads_to: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        shown = [] if example is None else [OpenApiExample("Example", example)]
        super().__init__(response, description, shown)
        self.links = {operation: _link(operation, values) for operation, values in (leads_to or {}).items()}


def _link(operation: str, values: Mapping[str, str]) -> dict[str, Any]:
    found = {name: value if value[0] == "$" else f"$response.body#{value}" for name, value in values.items()}
    body = {name.removeprefix("body."): value for name, value in found.items() if name.startswith("body.")}
    parameters = {name: value for name, value in found.items() if not name.startswith("body.")}
    return {
        "operationId": operation,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": body} if body else {}),
    }


class Schema(AutoSchema):
    """Says what each answer leads to, what stands in an address, and which scope a key needs, as the view has it."""

    view: Any
    method: str

    def get_description(self) -> str:  # type: ignore[override]  # drf-spectacular's own
        scope = scope_of(self.view, self.method)
        return f"{super().get_description() or ''}\n\nA key needs the scope `{scope}`.".strip()

    def get_extensions(self) -> dict[str, Any]:
        return {**super().get_extensions(), "x-required-scope": str(scope_of(self.view, self.method))}

    def _get_response_for_code(self, serializer: Any, status_code: str, *args: Any, **kwargs: Any) -> Any:
        described = super()._get_response_for_code(serializer, status_code, *args, **kwargs)  # type: ignore[no-untyped-call]
        if links := getattr(serializer, "links", None):
            described["links"] = links
        return described

    def get_override_parameters(self) -> list[Any]:
        return [PARTS_OF_ADDRESSES[name] for name in self.path_names() if name in PARTS_OF_ADDRESSES]

    def path_names(self) -> list[str]:
        return [part.strip("{}") for part in self.path.split("/") if part.startswith("{")]


def part_of_address(name: str, kind: Any, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.PATH, description=description)


PARTS_OF_ADDRESSES = {
    found.name: found
    for found in (
        part_of_address("outboxId", {"type": "string", "format": "uuid"}, "Which message: its `outboxId`."),
        part_of_address("alertId", {"type": "string", "pattern": "^[0-9]{1,18}$"}, "Which alert: its `alertId`."),
        part_of_address("webhookId", {"type": "string", "format": "uuid"}, "Which webhook: its `webhookId`."),
        part_of_address("deliveryId", {"type": "string", "format": "uuid"}, "Which delivery: its `deliveryId`."),
    )
}


class StrictBodies(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Bodies that have no other members than those described."""

    target_class = StrictSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        described = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**described, **({"additionalProperties": False} if direction == "request" else {})}


class DescribedFields(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """Fields that tell rules of theirs which stand elsewhere."""

    target_class = Described
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        return {
            **auto_schema._map_serializer_field(self.target, direction, bypass_extensions=True),
            **self.target.described,
        }


class MoneyAsked(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """Money in a body: refused with more decimals than money has."""

    target_class = Money

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        mapped = auto_schema._map_serializer_field(self.target, direction, bypass_extensions=True)
        return {**mapped, **({"multipleOf": 0.0001} if direction == "request" else {})}


def headers_of_answers(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Say of every answer what stands in its header."""
    for path in result["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                response.setdefault("headers", {}).update(
                    {
                        name: {"description": description, "schema": schema}
                        for name, (statuses, description, schema) in HEADERS.items()
                        if statuses is None or status in statuses
                    }
                )
    return result


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 1}
HEADERS: dict[str, tuple[set[str] | None, str, dict[str, Any]]] = {
    "X-Request-Id": (None, "The request, as the operator's log calls it.", TEXT),
    "WWW-Authenticate": ({"401"}, "How to say who you are.", TEXT),
    "Allow": ({"405"}, "The methods there are.", TEXT),
    "Retry-After": ({"429", "503"}, f"Seconds to wait, such as {RETRY_SECONDS}.", NUMBER),
}
