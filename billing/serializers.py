"""Money as the API writes it. The API's own names live only here."""

from rest_framework import serializers

from billing import pricing
from billing.exceptions import NoPrice
from billing.models import Account, Posting, Price
from smsportal.api.serializers import Money


class BalanceSerializer(serializers.ModelSerializer):
    """An account's money."""

    balance = Money(help_text="Everything in the account, what is held included.")
    held = Money(help_text="Set aside for messages under way.")
    available = Money(help_text="What can be spent now, credit included.")
    unitsLeft = serializers.SerializerMethodField(
        help_text="How many segments that is at the default price; null without one."
    )
    currency = serializers.CharField(help_text="Of the account: three letters.")
    lowBalanceThreshold = serializers.SerializerMethodField(help_text="At or below it the balance is low.")

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
        return float(account.threshold())


class PostingSerializer(serializers.ModelSerializer):
    """One line of the ledger."""

    kind = serializers.ChoiceField(
        choices=Posting.Kind.choices,
        help_text="`hold` sets money aside; a `capture` takes it, a `release` gives it back; `top_up` and `adjustment` "
        "change the balance.",
    )
    amount = Money(help_text="How much; an adjustment may be negative.")
    balanceAfter = Money(source="balance_after", help_text="The balance after it, what is held included.")
    reference = serializers.CharField(help_text="What caused it: an attempt of a message, a payment.")
    createdAt = serializers.DateTimeField(source="created_at", help_text="When.")

    class Meta:
        model = Posting
        fields = ["kind", "amount", "balanceAfter", "reference", "createdAt"]


class StatementPageSerializer(serializers.Serializer):
    """One page of the statement, newest first."""

    next = serializers.URLField(allow_null=True, help_text="The page of older postings.")
    previous = serializers.URLField(allow_null=True, help_text="The page of newer postings.")
    results = PostingSerializer(many=True, help_text="The postings of this page.")


class PriceRuleSerializer(serializers.ModelSerializer):
    """Which line of the price list decides."""

    prefix = serializers.SerializerMethodField(help_text="As `+254`; `default` for all other numbers.")
    effectiveFrom = serializers.DateTimeField(source="effective_from", help_text="Since when it holds.")

    class Meta:
        model = Price
        fields = ["prefix", "effectiveFrom"]

    def get_prefix(self, price: Price) -> str:
        return pricing.typed_prefix(price.prefix)


class PriceSerializer(PriceRuleSerializer):
    """One line of the price list."""

    costPerUnit = Money(source="price_per_segment", help_text="The price of one segment.")

    class Meta(PriceRuleSerializer.Meta):
        fields = ["prefix", "costPerUnit", "effectiveFrom"]


class PricesSerializer(serializers.Serializer):
    """What messages cost at this moment: the longest prefix that fits a number decides."""

    currency = serializers.CharField(help_text="Of the prices: three letters.")
    prices = PriceSerializer(many=True, help_text="One for each prefix that has a price.")
