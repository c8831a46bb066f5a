"""The API of billing: what is left, where it went, what things cost."""

import django_filters
from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import ledger, pricing
from billing.models import Posting
from billing.serializers import BalanceSerializer, PostingSerializer, PricesSerializer, StatementPageSerializer
from smsportal.api import examples
from smsportal.api.authentication import caller
from smsportal.api.filters import InstantFilter, StrictFilterSet
from smsportal.api.pagination import KeysetPagination
from smsportal.api.schema import Answer, problems
from smsportal.models import ApiKey


class BalanceView(APIView):
    """What is left."""

    scope = ApiKey.Scope.BILLING

    @extend_schema(
        operation_id="getBalance",
        summary="Read the balance",
        responses={200: Answer(BalanceSerializer, "Your money.", examples.BALANCE), **problems()},
    )
    def get(self, request: Request) -> Response:
        """Your money: all of it, what is held for messages under way, and what can be spent."""
        return Response(BalanceSerializer(ledger.account_of(caller(request))).data)


class StatementFilter(StrictFilterSet):
    """Filters of the statement."""

    kind = django_filters.ChoiceFilter(choices=Posting.Kind.choices, label="What it is.")
    reference = django_filters.CharFilter(label="What caused it; exact.")
    createdAfter = InstantFilter("created_at", lookup_expr="gte", label="ISO 8601 with offset; that moment or later.")
    createdBefore = InstantFilter("created_at", lookup_expr="lt", label="ISO 8601 with offset; earlier than that.")

    class Meta:
        model = Posting
        fields: list[str] = []


class StatementView(GenericAPIView):
    """Where the money went."""

    scope = ApiKey.Scope.BILLING
    serializer_class = PostingSerializer
    filterset_class = StatementFilter
    queryset = Posting.objects.none()

    def get_queryset(self) -> QuerySet[Posting]:
        if getattr(self, "swagger_fake_view", False):
            return super().get_queryset()
        return ledger.account_of(caller(self.request)).postings.all()

    @extend_schema(
        operation_id="listStatement",
        summary="Read the statement",
        parameters=[*StatementFilter.parameters(), *KeysetPagination.parameters()],
        filters=False,
        responses={
            200: Answer(StatementPageSerializer, "A page of it.", examples.STATEMENT),
            **problems("invalid"),
        },
    )
    def get(self, request: Request) -> Response:
        """Every movement of your money, newest first, each with the balance after it. A hold only sets money aside:
        the balance changes when it is captured. Follow `next` for older ones.
        """
        StatementFilter(request.query_params).refuse_typos(["pageSize", "cursor"])
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


class PricesView(APIView):
    """What things cost."""

    scope = ApiKey.Scope.BILLING

    @extend_schema(
        operation_id="listPrices",
        summary="Read the prices",
        responses={200: Answer(PricesSerializer, "Your prices.", examples.PRICES), **problems()},
    )
    def get(self, request: Request) -> Response:
        """The prices in force for you at this moment, your own before the general ones."""
        currency = ledger.account_of(caller(request)).currency
        prices = pricing.in_force(caller(request), currency)
        return Response(PricesSerializer({"currency": currency, "prices": prices}).data)
