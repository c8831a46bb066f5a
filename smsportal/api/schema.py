"""How errors are described in the OpenAPI document: the same table that answers them."""

from collections import defaultdict
from typing import Any

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers

from smsportal.api.permissions import scope_of
from smsportal.api.problems import CONTENT_TYPE, KINDS
from smsportal.api.serializers import Money


class ScopedSchema(AutoSchema):
    """Each operation says which scope its key needs, as its view declares it to HasScope."""

    view: Any
    method: str

    def get_description(self) -> str:  # type: ignore[override]  # drf-spectacular's own
        scope = scope_of(self.view, self.method)
        return f"{super().get_description() or ''}\n\nA key needs the scope `{scope}`.".strip()

    def get_extensions(self) -> dict[str, Any]:
        return {**super().get_extensions(), "x-required-scope": str(scope_of(self.view, self.method))}


class FieldErrorSerializer(serializers.Serializer):
    field = serializers.CharField(help_text="Name of the field; empty when the body as a whole is at fault.")
    code = serializers.CharField(help_text="A stable word.")
    message = serializers.CharField(help_text="A sentence for a person.")


class ProblemSerializer(serializers.Serializer):
    """RFC 9457. Some codes have further members; /api/errors lists all codes."""

    type = serializers.CharField(help_text="Where the code is explained.")
    title = serializers.CharField()
    status = serializers.IntegerField(help_text="The HTTP status.")
    detail = serializers.CharField(help_text="A sentence about this very case.")
    code = serializers.ChoiceField(choices=list(KINDS))
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
        choices=["perKey", "perUser", "perRecipient", "otpCoolDown", "perPrefix", "dailySpend", "perAddress"],
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
    *("unauthorized", "forbidden", "scope_missing", "method_not_allowed", "rate_limited"),
    *("internal_error", "unavailable"),
)


def problems(*codes: str) -> dict[tuple[int, str], Any]:
    """Responses for `codes` and for COMMON, by status, each with what it means."""
    by_status = defaultdict(list)
    for code in (*codes, *COMMON):
        by_status[KINDS[code].status].append(f"`{code}`: {KINDS[code].advice}")
    return {
        (status, CONTENT_TYPE): OpenApiResponse(ProblemSerializer, description="\n\n".join(lines))
        for status, lines in sorted(by_status.items())
    }
