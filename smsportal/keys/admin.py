"""The admin of keys."""

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.debug import sensitive_variables

from smsportal.exceptions import DomainError
from smsportal.keys.forms import KeyForm, RotateForm
from smsportal.log_admin import note
from smsportal.models import ApiKey, User


class AdminKeyForm(KeyForm):
    """A new key for any user, with what only the staff may grant."""

    class Meta(KeyForm.Meta):
        fields = ("user", *KeyForm.Meta.fields, "may_act_for_others")
        help_texts = {
            **KeyForm.Meta.help_texts,
            "may_act_for_others": "The key may send and read for every user, and spends their money.",
            "expires_at": "UTC; empty for a key that works until it is revoked.",
        }
        widgets: dict[str, Any] = {}  # the admin's own

    def clean_user(self) -> User:
        user: User = self.cleaned_data["user"]
        if user.is_test_twin:
            raise ValidationError("Make a test key for the user that this test twin stands for.")
        return user


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):
    """Keys are made, shown once, rotated and revoked; never changed, never deleted."""

    form = AdminKeyForm
    actions = None
    autocomplete_fields = ("user",)
    list_display = (
        *("user", "name", "shown_hint", "works", "shown_scopes"),
        *("created_at", "expires_at", "last_used_at", "revoked_at"),
    )
    list_display_links = ("name",)
    list_filter = ("may_act_for_others",)
    list_select_related = ("user__live_user",)
    ordering = ("-created_at",)
    search_fields = ("=user__username", "=hint", "name")
    search_help_text = "A user name, the beginning of a key as it is listed here, or a part of a key's name."
    change_form_template = "admin/smsportal/apikey/change_form.html"

    @admin.display(description="key")
    def shown_hint(self, key: ApiKey) -> str:
        return f"{key.hint}…"

    @admin.display(description="works", boolean=True)
    def works(self, key: ApiKey) -> bool:
        return key.state() == "works"

    @admin.display(description="scopes")
    def shown_scopes(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @admin.display(description="sender IDs")
    def shown_sender_ids(self, key: ApiKey) -> str:
        return ", ".join(key.allowed_sender_ids) or "all that the user may use"

    @admin.display(description="IP ranges")
    def shown_ip_ranges(self, key: ApiKey) -> str:
        return ", ".join(key.allowed_ip_ranges) or "anywhere"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return AdminKeyForm.Meta.fields
        return (*self.list_display, "may_act_for_others", "shown_sender_ids", "shown_ip_ranges", "replaces")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else self.get_fields(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_view_permission(request, obj) or self.has_revoke_permission(request)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("smsportal.change_apikey")

    def has_rotate_permission(self, request: HttpRequest) -> bool:
        """It ends one key and makes another, which whoever does it gets to see."""
        return self.has_revoke_permission(request) and self.has_add_permission(request)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup in ("may_act_for_others__exact", "user__id__exact")  # not `?digest__startswith=`

    def get_urls(self) -> list[URLPattern]:
        revoke = self.admin_site.admin_view(self.revoke_view)
        rotate = self.admin_site.admin_view(self.rotate_view)
        own: list[URLPattern] = [
            path("<int:key_id>/revoke/", revoke, name="smsportal_apikey_revoke"),
            path("<int:key_id>/rotate/", rotate, name="smsportal_apikey_rotate"),
        ]
        return own + super().get_urls()

    # --- making one ---------------------------------------------------------------------------------------------------

    @sensitive_variables()
    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        key, secret = ApiKey.issue(**form.cleaned_data)
        obj.pk = key.pk
        obj.refresh_from_db()
        obj.secret = secret  # of this object, for the answer to this request; no field, so nothing stores it

    @sensitive_variables()
    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        return self._show_secret(request, obj, obj.secret)

    @sensitive_variables()
    def _show_secret(self, request: HttpRequest, key: ApiKey, secret: str) -> HttpResponse:
        """Show the secret in the answer itself: a message would keep it in a cookie or in the sessions table."""
        context = self._context(request, key, title="The new API key", secret=secret)
        return TemplateResponse(request, "admin/smsportal/apikey/created.html", context)

    # --- ending one ---------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {
            "may_revoke": self.has_revoke_permission(request),
            "may_rotate": self.has_rotate_permission(request),
        }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def revoke_view(self, request: HttpRequest, key_id: int) -> HttpResponse:
        """Ask (GET), then end the key (POST)."""
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        key = self._key_or_404(key_id)
        if request.method != "POST":
            context = self._context(request, key, title="Revoke an API key")
            return TemplateResponse(request, "admin/smsportal/apikey/revoke.html", context)
        if key.revoke():
            note(request, key, "Revoked.")
            messages.success(request, f"The key {key} is revoked: no request with it is let in from now on.")
        else:
            messages.warning(request, f"The key {key} was revoked before.")
        return HttpResponseRedirect(reverse("admin:smsportal_apikey_change", args=[key.pk]))

    @sensitive_variables()
    def rotate_view(self, request: HttpRequest, key_id: int) -> HttpResponse:
        """Ask for how long the old key works on (GET), then make the new one and show it (POST)."""
        if not self.has_rotate_permission(request):
            raise PermissionDenied
        key = self._key_or_404(key_id)
        form = RotateForm(request.POST or None)
        if not form.is_valid():
            context = self._context(request, key, title="Rotate an API key", form=form)
            return TemplateResponse(request, "admin/smsportal/apikey/rotate.html", context)
        hours = form.cleaned_data["keep_hours"]
        try:
            with transaction.atomic():
                new, secret = key.rotate(timedelta(hours=hours))
                note(request, key, f"Rotated: {new} takes its place; it works on for {hours} hours.")
                note(request, new, f"Made in the place of {key}.")
        except DomainError as error:
            messages.error(request, error.message)
            return HttpResponseRedirect(reverse("admin:smsportal_apikey_change", args=[key.pk]))
        return self._show_secret(request, new, secret)

    def _key_or_404(self, key_id: int) -> ApiKey:
        return get_object_or_404(ApiKey.objects.select_related("user__live_user"), pk=key_id)

    def _context(self, request: HttpRequest, key: ApiKey, **context: Any) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts, "original": key, **context}
