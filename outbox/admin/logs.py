"""Attempts and receipts, as they were; and what the audits made of it all."""

from django.contrib import admin
from django.db.models import Q

from outbox.admin.parts import ProviderFilter, as_uuid, shown_raw, without_text
from outbox.models import Attempt, AuditRun, Receipt
from outbox.providers import provider_names
from smsportal.log_admin import LogAdmin


@admin.register(Attempt)
class AttemptAdmin(LogAdmin):
    """Every handing of a message to a provider."""

    list_display = (
        *("started_at", "outbox_id", "number", "provider", "outcome", "finished_at"),
        *("provider_message_id", "error_code"),
    )
    fields = (
        *("outbox", "number", "provider", "outcome", "started_at", "finished_at", "lease_expires_at"),
        *("provider_message_id", "error_code", "shown_error_details", "hold_reference"),
    )
    list_filter = (ProviderFilter, "outcome")
    search_help_text = "Exactly: an outbox id, or a provider's message id."

    @admin.display(description="error details")
    def shown_error_details(self, attempt: Attempt) -> str:
        return without_text(attempt.outbox, attempt.error_details) or "-"

    def find(self, term: str) -> Q:
        outbox_id = as_uuid(term)
        # The index of the providers' ids begins with the provider.
        by_provider = Q(provider__in=provider_names(), provider_message_id=term)
        return by_provider | Q(outbox_id=outbox_id) if outbox_id else by_provider


@admin.register(Receipt)
class ReceiptAdmin(LogAdmin):
    """Every delivery receipt, whatever it did. Those that contradict, and orphans that stay, are for the staff."""

    list_display = ("received_at", "provider", "status", "effect", "outbox_id", "provider_message_id")
    fields = ("received_at", "provider", "status", "effect", "outbox", "provider_message_id", "shown_raw")
    list_filter = (ProviderFilter, "status", "effect")
    search_help_text = "Exactly: an outbox id, or of an orphan the provider's message id."

    @admin.display(description="as it came")
    def shown_raw(self, receipt: Receipt) -> str:
        return shown_raw(receipt.outbox, receipt)

    def find(self, term: str) -> Q:
        outbox_id = as_uuid(term)
        orphans = Q(effect=Receipt.Effect.ORPHAN, provider__in=provider_names(), provider_message_id=term)
        return orphans | Q(outbox_id=outbox_id) if outbox_id else orphans


@admin.register(AuditRun)
class AuditRunAdmin(LogAdmin):
    """Every audit, of the day or by hand: what it checked, and the first of what it found broken."""

    list_display = ("started_at", "finished_at", "shown_seconds", "messages", "postings", "accounts", "findings")
    fields = (*list_display, "named")
    search_fields = ()

    @admin.display(description="seconds")
    def shown_seconds(self, run: AuditRun) -> str:
        return "-" if run.seconds is None else f"{run.seconds:.1f}"
