"""Who may send as whom, and to whom: sender IDs, which the staff approve and refuse; protected names; opt-outs."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from outbox import sender_ids, validation
from outbox.look_alikes import fold
from outbox.models import OptOut, ProtectedName, SenderId
from smsportal.exceptions import DomainError
from smsportal.log_admin import LogAdmin, note
from smsportal.models import User


class RefusalForm(forms.Form):
    reason = forms.CharField(max_length=200, help_text="The user reads it; kept in the history, with your name.")


class ApprovalForm(RefusalForm):
    shared = forms.BooleanField(
        required=False,
        label="Share it",
        help_text="Although another user has it, or one that looks like it: both are the same business, or it is"
        " nobody's, such as INFO.",
    )


@admin.register(SenderId)
class SenderIdAdmin(LogAdmin):
    """What users want to send as. Who may decide approves or refuses it, with a reason, or takes an approval back."""

    list_display = ("name", "user", "state", "is_shared", "requested_at", "decided_at", "decided_by", "reason")
    fields = [*list_display, "shown_others", "shown_protected"]
    list_filter = ("state",)
    list_select_related = ("user", "decided_by")
    links = ("user__id__exact",)
    search_help_text = "Exactly: a user name, or a sender ID in any spelling."
    change_form_template = "admin/outbox/senderid/change_form.html"

    @admin.display(description="others that look like it")
    def shown_others(self, sender_id: SenderId) -> str:
        return ", ".join(f"{one.name} ({one.user})" for one in sender_ids.others_with(sender_id)) or "none"

    @admin.display(description="looks like the protected name")
    def shown_protected(self, sender_id: SenderId) -> str:
        return str(sender_ids.protected_name_like(sender_id.name) or "none")

    def find(self, term: str) -> Q:
        return Q(user__in=User.objects.filter(username=term)) | Q(folded=fold(term) or None)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or self.has_decide_permission(request)

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("outbox.decide_senderid")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_decide": self.has_decide_permission(request)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def get_urls(self) -> list[URLPattern]:
        approve = self.admin_site.admin_view(self.approve_view)
        refuse = self.admin_site.admin_view(self.refuse_view)
        own: list[URLPattern] = [
            path("<int:pk>/approve/", approve, name="outbox_senderid_approve"),
            path("<int:pk>/refuse/", refuse, name="outbox_senderid_refuse"),
        ]
        return own + super().get_urls()

    def approve_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._decide(request, pk, ApprovalForm, sender_ids.approve, "Approve")

    def refuse_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self._decide(request, pk, RefusalForm, sender_ids.refuse, "Refuse")

    def _decide(
        self, request: HttpRequest, pk: int, form_class: type[RefusalForm], act: Callable[..., None], verb: str
    ) -> HttpResponse:
        """Ask for the reason (GET), then decide (POST)."""
        if not self.has_decide_permission(request):
            raise PermissionDenied
        sender_id = get_object_or_404(SenderId.objects.select_related("user"), pk=pk)
        form = form_class(request.POST or None)
        if form.is_valid():
            try:
                with transaction.atomic():
                    act(sender_id, by=request.user, **form.cleaned_data)
                    note(request, sender_id, f"{verb}: {form.cleaned_data['reason']}")
            except DomainError as error:
                form.add_error(None, error.message)
            else:
                messages.success(request, f"{sender_id} of {sender_id.user}: {sender_id.state}.")
                return HttpResponseRedirect(reverse("admin:outbox_senderid_change", args=[pk]))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": sender_id,
            "title": f"{verb} {sender_id}",
            "form": form,
            "others": self.shown_others(sender_id),
            "protected": self.shown_protected(sender_id),
        }
        return TemplateResponse(request, "admin/outbox/senderid/decide.html", context)


class ProtectedNameForm(forms.ModelForm):
    class Meta:
        model = ProtectedName
        fields = ("name",)
        help_texts = {
            "name": "No name that looks like it or contains it is approved but by those who may approve protected"
            " names; of 3 letters or fewer: no name that looks like it."
        }

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        folded = fold(name)
        if not 0 < len(folded) <= 64:
            raise ValidationError("Give a name with letters or digits.")
        if ProtectedName.objects.filter(folded=folded).exists():
            raise ValidationError("This name, or one that looks like it, is protected already.")
        return name


class AddedOrDeletedAdmin(admin.ModelAdmin):
    """Rows that hold while they stand there: added and deleted, never changed, so that the history tells it all."""

    actions = None

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(ProtectedName)
class ProtectedNameAdmin(AddedOrDeletedAdmin):
    """Banks, authorities and other names that fraud likes."""

    form = ProtectedNameForm
    list_display = ("name", "created_at")
    search_fields = ("name",)


class OptOutForm(forms.ModelForm):
    class Meta:
        model = OptOut
        fields = ("number", "user", "reason")
        help_texts = {"user": "Whose messages it does not want; empty for everybody's."}

    number = forms.CharField(max_length=64, help_text="International, or local in the default region.")

    def clean_number(self) -> str:
        return validation.clean_recipient(self.cleaned_data["number"])


@admin.register(OptOut)
class OptOutAdmin(AddedOrDeletedAdmin):
    """Numbers that want no messages."""

    form = OptOutForm
    autocomplete_fields = ("user",)
    list_display = ("number", "user", "reason", "created_at", "created_by")
    list_select_related = ("user", "created_by")
    search_fields = ("=number", "=user__username")
    search_help_text = "Exactly: a number as +254711000001, or a user name."

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.created_by = request.user
        obj.save(force_insert=True)
