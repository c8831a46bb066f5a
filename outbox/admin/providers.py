"""Providers, which the staff stop and start, and the dispatchers at work."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from outbox import circuits, workers
from outbox.admin.parts import ReasonForm
from outbox.models import AttemptCount, Outbox, ProviderState, Worker
from smsportal.log_admin import LogAdmin, note


@admin.register(ProviderState)
class ProviderStateAdmin(LogAdmin):
    """Every provider that was ever to be called: whether it works, and since when. The staff stop and start it here."""

    list_display = ("provider", "shown_state", "since", "retry_at", "reason", "worked_at", "waiting")
    fields = ("provider", "shown_state", "since", "retry_at", "reason_code", "reason", "worked_at", "waiting", "counts")
    ordering = ("provider",)
    search_fields = ()

    @admin.display(description="state")
    def shown_state(self, state: ProviderState) -> str:
        return state.get_circuit_display()

    @admin.display(description="messages waiting")
    def waiting(self, state: ProviderState) -> int:
        return Outbox.objects.filter(provider=state.provider, due_at__isnull=False).count()

    @admin.display(description="attempts")
    def counts(self, state: ProviderState) -> str:
        counts = AttemptCount.objects.filter(provider=state.provider).order_by("-attempts")
        return ", ".join(f"{count.attempts} {count.outcome}" for count in counts) or "none"

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("outbox.operate_provider") and self.has_view_permission(request)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_operate": self.has_operate_permission(request)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def get_urls(self) -> list[URLPattern]:
        stop = self.admin_site.admin_view(self.stop_view)
        start = self.admin_site.admin_view(self.start_view)
        own: list[URLPattern] = [
            path("<path:provider>/stop/", stop, name="outbox_providerstate_stop"),
            path("<path:provider>/start/", start, name="outbox_providerstate_start"),
        ]
        return own + super().get_urls()

    def stop_view(self, request: HttpRequest, provider: str) -> HttpResponse:
        return self._operate(request, provider, circuits.stop, "Stop")

    def start_view(self, request: HttpRequest, provider: str) -> HttpResponse:
        return self._operate(request, provider, circuits.start, "Start")

    def _operate(self, request: HttpRequest, provider: str, act: Callable[[str], None], verb: str) -> HttpResponse:
        """Ask for the reason (GET), then stop or start the provider (POST)."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        state = get_object_or_404(ProviderState, pk=provider)
        form = ReasonForm(request.POST or None)
        if form.is_valid():
            with transaction.atomic():
                act(state.provider)
                note(request, state, f"{verb}: {form.cleaned_data['reason']}")
            done = "gets nothing until it is started again" if verb == "Stop" else "is tried with one message now"
            messages.success(request, f"{verb}: {state.provider} {done}.")
            return HttpResponseRedirect(reverse("admin:outbox_providerstate_change", args=[state.provider]))
        context = {"opts": self.opts, "original": state, "title": f"{verb} {state.provider}", "form": form}
        context |= {**self.admin_site.each_context(request), "waiting": self.waiting(state), "stops": verb == "Stop"}
        return TemplateResponse(request, "admin/outbox/providerstate/operate.html", context)


@admin.register(Worker)
class WorkerAdmin(LogAdmin):
    """The dispatchers: those at work, and those that were killed within the last day."""

    list_display = ("shown_name", "started_at", "beat_at", "lives", "calls")
    fields = list_display
    search_fields = ()

    @admin.display(description="dispatcher")
    def shown_name(self, worker: Worker) -> str:
        return f"{worker.host}, process {worker.pid}"

    @admin.display(description="lives", boolean=True)
    def lives(self, worker: Worker) -> bool:
        return workers.alive().filter(pk=worker.pk).exists()
