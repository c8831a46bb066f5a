"""What several of these pages share."""

import json
import uuid
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from outbox.models import HIDDEN, Outbox, Receipt
from outbox.providers import provider_names


def without_text(entry: Outbox | None, details: str | None) -> str | None:
    """What a provider said about a message, unless it repeats a text that nobody may read."""
    return HIDDEN if entry and details and entry.is_private() and entry.text in details else details


def shown_raw(entry: Outbox | None, receipt: Receipt) -> str:
    """A receipt as it came. Gateways repeat the text in ways of their own, so a private one is hidden whole."""
    return HIDDEN if entry and entry.is_private() else json.dumps(receipt.raw, indent=2, ensure_ascii=False)


def as_uuid(term: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(term)
    except ValueError:
        return None


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=200, help_text="Kept in the history, with your name.")


class ProviderFilter(admin.SimpleListFilter):
    """The providers that are served: to list those of the table would mean to read all of it."""

    title = "provider"
    parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in provider_names()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset
