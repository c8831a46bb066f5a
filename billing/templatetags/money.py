"""Money as people read it."""

from decimal import Decimal

from django import template

register = template.Library()


@register.filter
def money(amount: Decimal, currency: str = "") -> str:
    """`1234.5` as `1,234.50 KES`: two decimals, and up to four where they say something."""
    whole, _, decimals = f"{amount:,.4f}".partition(".")
    shown = f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"
    return f"{shown} {currency}".strip()
