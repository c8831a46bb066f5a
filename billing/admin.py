"""The admin of money: accounts, the ledger, prices. It moves money through the ledger's functions only."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import DataError, IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone

from billing.exceptions import InsufficientBalance
from billing.forms import AccountForm, AdjustForm, MoneyForm, PriceForm, TopUpForm, post
from billing.models import Account, Posting, Price
from smsportal.instants import database_now
from smsportal.log_admin import LogAdmin, note

MONEY = ("balance", "held", "shown_available", "shown_spent_today")


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):
    """Accounts. Their money is only to be read here; it moves by a top-up or an adjustment, each a posting."""

    form = AccountForm
    actions = None
    autocomplete_fields = ("user",)
    list_display = ("user", "currency", "balance", "held", "shown_available", "credit_limit", "low_balance_threshold")
    list_filter = ("currency",)
    list_select_related = ("user",)
    ordering = ("user__username",)
    search_fields = ("user__username", "user__email")

    @admin.display(description="available")
    def shown_available(self, account: Account) -> str:
        return f"{account.available():f}"

    @admin.display(description="held for messages, today (UTC)")
    def shown_spent_today(self, account: Account) -> str:
        return f"{account.spent_today if account.spent_on == database_now().date() else 0:f}"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        money = () if obj is None else MONEY
        settings = ("credit_limit", "low_balance_threshold", "daily_spend_limit", "allowed_destinations")
        return ("user", "currency", *money, *settings)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else ("user", "currency", *MONEY)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_money_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("billing.move_money")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write what the form changed and nothing else: money that moved since it was opened must stay moved."""
        obj.save(update_fields=form.changed_data if change else None)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        values = [f"{name}: {form.initial.get(name)} → {form.cleaned_data[name]}" for name in form.changed_data]
        return (
            super().construct_change_message(request, form, formsets, add) if add else "; ".join(values) or "Nothing."
        )

    def get_urls(self) -> list[URLPattern]:
        top_up = self.admin_site.admin_view(self.top_up_view)
        adjust = self.admin_site.admin_view(self.adjust_view)
        own: list[URLPattern] = [
            path("<int:account_id>/top-up/", top_up, name="billing_account_top_up"),
            path("<int:account_id>/adjust/", adjust, name="billing_account_adjust"),
        ]
        return own + super().get_urls()

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        may = {"may_move_money": self.has_money_permission(request)}
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **may})

    def top_up_view(self, request: HttpRequest, account_id: int) -> HttpResponse:
        return self._move_money(request, account_id, TopUpForm, "Top up")

    def adjust_view(self, request: HttpRequest, account_id: int) -> HttpResponse:
        return self._move_money(request, account_id, AdjustForm, "Adjust")

    def _move_money(
        self, request: HttpRequest, account_id: int, form_class: type[MoneyForm], title: str
    ) -> HttpResponse:
        """Ask for amount and reason (GET), then write one posting (POST), the same however often it is sent."""
        if not (self.has_money_permission(request) and self.has_view_permission(request)):
            raise PermissionDenied
        account = get_object_or_404(Account.objects.select_related("user"), pk=account_id)
        form = form_class(request.POST or None)
        if form.is_valid() and self._post(request, account, form):
            return HttpResponseRedirect(reverse("admin:billing_account_change", args=[account.pk]))
        context = {"opts": self.opts, "original": account, "title": title, "form": form}
        return TemplateResponse(
            request, "admin/billing/account/move_money.html", {**self.admin_site.each_context(request), **context}
        )

    def _post(self, request: HttpRequest, account: Account, form: MoneyForm) -> bool:
        """Write the posting and its line of the admin's history; returns whether it is written, now or before."""
        try:
            with transaction.atomic():
                posting = post(account, form, request.user)
                note(request, account, f"{_sentence(account, posting)}: {posting.reason}")
        except InsufficientBalance as error:
            form.add_error("amount", error.message)
        except DataError:
            form.add_error("amount", "The balance would have more than 14 digits.")
        except IntegrityError:
            return self._was_posted_before(request, account, form)
        else:
            messages.success(request, f"{_sentence(account, posting)}; the balance is {posting.balance_after:f}.")
            return True
        return False

    def _was_posted_before(self, request: HttpRequest, account: Account, form: MoneyForm) -> bool:
        """Tell a form that was sent twice, which is no error, from a reference that belongs to another posting."""
        first = Posting.objects.get(kind=form.kind, reference=form.cause())
        if (first.account_id, first.amount) == (account.pk, form.cleaned_data["amount"]):
            messages.warning(request, f"{_sentence(account, first)} before; nothing was posted a second time.")
            return True
        if form.cleaned_data["reference"]:
            form.add_error("reference", "Another posting has this reference.")
        else:
            form.add_error(None, "This form has been used. Open it anew from the account's page.")
        return False


def _sentence(account: Account, posting: Posting) -> str:
    verb = "Topped up" if posting.kind == Posting.Kind.TOP_UP else "Adjusted"
    return f"{verb} by {posting.amount.normalize():f} {account.currency} (reference {posting.reference})"


POSTING = (
    *("created_at", "account", "kind", "amount", "balance_after", "held_after"),
    *("reference", "reason", "created_by"),
)


@admin.register(Posting)
class PostingAdmin(LogAdmin):
    """The ledger, to be read. Mistakes are corrected by an adjustment of the account."""

    list_display = POSTING
    fields = ["id", *POSTING, "settles"]
    list_filter = ("kind",)
    list_select_related = ("account__user", "created_by")
    links = ("account__id__exact",)
    search_help_text = "Exactly: a reference, or a user name."

    def find(self, term: str) -> Q:
        # With its kinds, a reference is found through the index that keeps it unique.
        return Q(kind__in=Posting.Kind.values, reference=term) | Q(account__in=_accounts_of(term))


def _accounts_of(username: str) -> list[int]:
    return list(Account.objects.filter(user__username=username).values_list("pk", flat=True))


@admin.register(Price)
class PriceAdmin(admin.ModelAdmin):
    """Prices are added, never changed; one that has not begun may be deleted."""

    form = PriceForm
    actions = None
    autocomplete_fields = ("user",)
    list_display = [
        *("shown_prefix", "user", "price_per_segment", "currency", "effective_from", "state"),
        *("reason", "created_by"),
    ]
    list_filter = ("currency",)
    list_select_related = ("user", "created_by")
    search_fields = ("prefix__startswith", "=user__username")
    search_help_text = "The first digits of a prefix without +, or a user name."

    @admin.display(description="prefix", ordering="prefix")
    def shown_prefix(self, price: Price) -> str:
        return f"+{price.prefix}" if price.prefix else "default"

    @admin.display(description="state")
    def state(self, price: Price) -> str:
        return "to come" if price.effective_from > timezone.now() else "begun"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return PriceForm.Meta.fields if obj is None else [*self.list_display, "created_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if obj is None else self.get_fields(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        begun = isinstance(obj, Price) and obj.effective_from <= timezone.now()
        return not begun and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.created_by = request.user
        obj.save(force_insert=True)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        if not Price.objects.filter(pk=obj.pk, effective_from__gt=Now()).delete()[0]:
            raise PermissionDenied  # it began a moment ago
