"""The admin of users and of notices to the staff; and what the whole admin is called."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from smsportal.keys import admin as keys_admin  # noqa: F401  # registers them
from smsportal.log_admin import LogAdmin
from smsportal.log_ins.admin import RemovesSecondFactors
from smsportal.models import Notice, User
from smsportal.webhooks import admin as webhooks_admin  # noqa: F401  # registers theirs

admin.site.site_header = admin.site.site_title = "SMS Portal"
admin.site.index_title = "Administration"
admin.site.enable_nav_sidebar = False  # the lists need the width


admin.site.unregister(Group)


class TwinFilter(admin.SimpleListFilter):
    """People, unless somebody asks for the users that test keys act as."""

    title = "kind"
    parameter_name = "twins"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Test twins")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        current, *others = super().choices(changelist)
        yield {**current, "display": "Users"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[User]) -> QuerySet[User]:
        return queryset.filter(live_user__isnull=self.value() != "yes")


@admin.register(User)
class UserAdmin(RemovesSecondFactors, DjangoUserAdmin):
    """People who send, and staff. Nobody is deleted: what they did stays attributed; make them inactive instead.

    Only superusers hand out rights or change staff: who may change users could otherwise take any right.
    """

    list_display = ("username", "test_twin", "email", "is_active", "is_staff", "default_sender_id", "last_login")
    list_filter = (TwinFilter, *DjangoUserAdmin.list_filter)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Sending", {"fields": ("default_sender_id", "max_retries", "rate_limit_per_minute")}),
        ("Personal info", {"fields": ("first_name", "last_name", "email")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Important dates", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")

    @admin.display(description="test twin", boolean=True)
    def test_twin(self, user: User) -> bool:
        return user.is_test_twin

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[User], search_term: str
    ) -> tuple[QuerySet[User], bool]:
        found, may_have_duplicates = super().get_search_results(request, queryset, search_term)
        if request.path == reverse("admin:autocomplete"):  # a field asks: none of them is for test twins
            found = found.filter(live_user=None)
        return found, may_have_duplicates

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if isinstance(obj, User) and obj.is_test_twin:
            return False
        if isinstance(obj, User) and obj.is_staff and not is_superuser(request):
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        rights = () if is_superuser(request) else ("is_staff", "is_superuser", "groups", "user_permissions")
        return (*self.readonly_fields, *rights)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin):
    """Groups hand out rights, so only superusers change them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return is_superuser(request)


def is_superuser(request: HttpRequest) -> bool:
    return request.user.is_active and bool(getattr(request.user, "is_superuser", False))


class OverFilter(admin.SimpleListFilter):
    """Those that hold, unless somebody asks for the others."""

    title = "state"
    parameter_name = "over"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Over")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        current, *others = super().choices(changelist)
        yield {**current, "display": "Open"}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Notice]) -> QuerySet[Notice]:
        return queryset.filter(user=None, ended_at__isnull=self.value() != "yes")


@admin.register(Notice)
class NoticeAdmin(LogAdmin):
    """What the staff should know. A notice ends by itself when its cause is over."""

    list_display = ("created_at", "level", "text", "ended_at")
    fields = ("created_at", "ended_at", "level", "kind", "about", "text")
    list_filter = (OverFilter,)
    ordering = ("-created_at",)
    search_fields = ()
