"""The API of alerts."""

import re

from django.db.models import Count
from django.http import Http404
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from outbox.alerts import preferences
from outbox.alerts.serializers import AlertSerializer, AlertSettingsSerializer, AlertsSerializer
from smsportal import notices
from smsportal.api import examples
from smsportal.api.authentication import caller
from smsportal.api.schema import Answer, problems
from smsportal.models import ApiKey, Notice

MOST = 200  # alerts of one answer


class AlertSettingsView(APIView):
    """How a user is told."""

    scope = ApiKey.Scope.READ
    scope_to_change = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="getAlertSettings",
        summary="Read the alert settings",
        responses={200: Answer(AlertSettingsSerializer, "Your settings.", examples.SETTINGS), **problems()},
    )
    def get(self, request: Request) -> Response:
        """When and how you are told of a low balance and of failed messages."""
        return Response(AlertSettingsSerializer(preferences.preferences_of(caller(request))).data)

    @extend_schema(
        operation_id="changeAlertSettings",
        summary="Change the alert settings",
        request=AlertSettingsSerializer(partial=True),
        examples=[OpenApiExample("By e-mail, too", examples.CHANGE_SETTINGS, request_only=True)],
        responses={
            200: Answer(AlertSettingsSerializer, "Your settings as they now are.", examples.SETTINGS_CHANGED),
            **problems("invalid", "unsupported_media_type", "body_too_large"),
        },
    )
    def patch(self, request: Request) -> Response:
        """Change some of them; what is left out stays."""
        serializer = AlertSettingsSerializer(data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        preferences.change(caller(request), serializer.validated_data)
        return Response(AlertSettingsSerializer(preferences.preferences_of(caller(request))).data)


class AlertsView(APIView):
    """What a user was told."""

    scope = ApiKey.Scope.READ

    @extend_schema(
        operation_id="listAlerts",
        summary="List alerts",
        parameters=[OpenApiParameter("unread", bool, description="`true`: only those.")],
        responses={
            200: Answer(
                AlertsSerializer, "Your alerts.", examples.ALERTS, {"readAlert": {"alertId": "/results/0/alertId"}}
            ),
            **problems("invalid"),
        },
    )
    def get(self, request: Request) -> Response:
        """What you should know, unread first, newest first; the latest 200."""
        if unknown := request.query_params.keys() - {"unread"}:
            raise ValidationError({sorted(unknown)[0]: "There is no parameter of this name."})
        unread = request.query_params.get("unread", "false")
        if unread not in ("true", "false"):
            raise ValidationError({"unread": "Must be true or false."})
        newest = Notice.objects.filter(user=caller(request)).order_by("-pk")
        waiting = [*newest.filter(read_at=None).annotate(count=Count("subjects"))[:MOST]]
        if unread == "false":
            seen = newest.filter(read_at__isnull=False).annotate(count=Count("subjects"))
            waiting += seen[: MOST - len(waiting)]
        return Response({"results": AlertSerializer(waiting, many=True).data})


class ReadAlertView(APIView):
    """It was seen."""

    scope = ApiKey.Scope.SETTINGS

    @extend_schema(
        operation_id="readAlert",
        summary="Mark an alert as read",
        request=None,
        responses={200: Answer(AlertSerializer, "It is read.", examples.ALERT_READ), **problems("not_found")},
    )
    def post(self, request: Request, alertId: str) -> Response:
        """You have seen it. Messages that fail from now on make a new one."""
        if not re.fullmatch(r"[0-9]{1,18}", alertId):
            raise Http404
        mine = Notice.objects.filter(user=caller(request), pk=int(alertId))
        notice = mine.first()
        if notice is None:
            raise Http404
        notices.read(notice)
        return Response(AlertSerializer(mine.annotate(count=Count("subjects")).get()).data)
