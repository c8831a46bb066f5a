"""The API of billing: what is left."""

from decimal import Decimal

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from billing import ledger, pricing
from billing.exceptions import NoPrice
from billing.models import Account
from smsportal.api.authentication import caller
from smsportal.api.schema import problems
from smsportal.api.serializers import Money


class BalanceSerializer(serializers.ModelSerializer):
    """An account's money."""

    balance = Money(help_text="Everything in the account, what is held included.")
    held = Money(help_text="Set aside for messages under way.")
    available = Money(help_text="What can be spent now, credit included.")
    unitsLeft = serializers.SerializerMethodField(
        help_text="How many segments that is at the default price; null without one."
    )
    lowBalanceThreshold = serializers.SerializerMethodField()

    class Meta:
        model = Account
        fields = ["balance", "held", "available", "currency", "unitsLeft", "lowBalanceThreshold"]

    def get_unitsLeft(self, account: Account) -> int | None:  # the API's own name
        try:
            price, _ = pricing.price_for(account.user, "", account.currency)
        except NoPrice:
            return None
        return max(0, int(account.available() // price.price_per_segment))

    def get_lowBalanceThreshold(self, account: Account) -> float:
        own = account.low_balance_threshold
        return float(Decimal(settings.SMS_LOW_BALANCE_THRESHOLD) if own is None else own)


class BalanceView(APIView):
    """What is left."""

    @extend_schema(
        operation_id="getBalance", summary="Read the balance", responses={200: BalanceSerializer, **problems()}
    )
    def get(self, request: Request) -> Response:
        """Your money: all of it, what is held for messages under way, and what can be spent."""
        return Response(BalanceSerializer(ledger.account_of(caller(request))).data)
