"""Admin pages of the big tables that are only ever read: messages, attempts, receipts, postings."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Page, Paginator
from django.db import models
from django.db.models import Q
from django.http import HttpRequest
from django.utils.functional import cached_property

from smsportal.models import User

MAX_PAGES = 100
MAX_SEARCH_LENGTH = 150  # no user name, number, id or reference is longer


class UncountedPaginator(Paginator):
    """Pages of a table that nobody counts: COUNT(*) reads all of it, ten million rows for a number nobody needs.

    One row more than the page shows is fetched, and that row tells whether there is a next page. `count` is what is
    known so: the rows up to the end of this page, and that one. Pages end after MAX_PAGES, because OFFSET reads what it
    skips; a filter gets further back.
    """

    def __init__(self, object_list: Any, per_page: int, number: int) -> None:
        super().__init__(object_list, per_page)
        self.number = min(max(number, 1), MAX_PAGES)

    @cached_property
    def rows(self) -> list[models.Model]:
        start = (self.number - 1) * self.per_page
        return list(self.object_list[start : start + self.per_page + 1])

    @cached_property
    def count(self) -> int:
        return (self.number - 1) * self.per_page + len(self.rows)

    @cached_property
    def num_pages(self) -> int:
        return min(super().num_pages, MAX_PAGES)

    def current(self) -> Page:
        return Page(self.rows[: self.per_page], self.number, self)


class UncountedChangeList(ChangeList):
    """A list of one page at a time. What is shown is all that can be selected, so no action reaches unseen rows."""

    def get_ordering(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> list[Any]:
        return list(self.model_admin.ordering or ())  # never what `?o=` asks for: see LogAdmin.sortable_by

    def get_results(self, request: HttpRequest) -> None:
        self.paginator = UncountedPaginator(self.queryset, self.list_per_page, self.page_num)
        self.page_num = self.paginator.number
        if self.page_num > 1 and not self.paginator.rows:
            raise IncorrectLookupParameters
        self.multi_page = self.paginator.num_pages > 1
        self.may_go_further = self.page_num < MAX_PAGES or len(self.paginator.rows) <= self.list_per_page
        self.result_list = list(self.paginator.current())
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.can_show_all = False
        self.show_admin_actions = True


class LogAdmin(admin.ModelAdmin):
    """Rows to look at: nobody adds, changes or deletes one here, superusers included.

    A subclass says in `find()` what its search box understands; with `search_fields = ()` it has none. Filters are
    those of `list_filter` and `links`, and no other: by default any field of the model can be asked for in the address,
    `?text__contains=` too.
    """

    actions: Any = ()
    links: tuple[str, ...] = ()  # filters that other pages link to
    list_per_page = 100
    ordering = ("-id",)
    search_fields: ClassVar[tuple[str, ...]] = ("pk",)  # only makes the search box appear: find() does the work
    show_facets = admin.ShowFacets.NEVER  # they count, too
    show_full_result_count = False
    sortable_by = ()  # sorting by a column without an index would read and sort the whole table

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return UncountedChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def find(self, term: str) -> Q | None:
        """The rows that `term` names exactly, through an index; None when it cannot name any."""
        raise NotImplementedError

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        term = search_term.strip()
        if not term or not self.search_fields:
            return queryset, False
        condition = self.find(term) if len(term) <= MAX_SEARCH_LENGTH else None
        return (queryset.filter(condition) if condition else queryset.none()), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        return lookup in self.links or any(lookup in _parameters(spec) for spec in self.list_filter or ())


def _parameters(spec: Any) -> tuple[str, ...]:
    """The names in the address of one entry of `list_filter`."""
    if isinstance(spec, str):
        return f"{spec}__exact", f"{spec}__isnull"
    return (spec.parameter_name,)


def note(request: HttpRequest, row: models.Model, action: str) -> None:
    """Write into the admin's history who did `action`, a sentence with its reason, to `row`."""
    assert isinstance(request.user, User)  # noqa: S101  # admin_view() let nobody else in
    LogEntry.objects.log_actions(request.user.pk, [row], CHANGE, action, single_object=True)
