"""How a user wants to be told, by the API's names."""

from typing import Any

from django.db import transaction

from billing import ledger, low_balance
from billing.models import Account
from smsportal.models import User

COLUMNS = {
    "maxRetries": "max_retries",
    "failureAlerts": "failure_alerts",
    "emailAlerts": "email_alerts",
    "alertEmail": "alert_email",
}


def preferences_of(user: User) -> dict[str, Any]:
    return {
        "lowBalanceThreshold": ledger.account_of(user).threshold(),
        "maxRetries": user.retries_allowed(),
        "failureAlerts": user.failure_alerts,
        "emailAlerts": user.email_alerts,
        "alertEmail": user.alert_email,
    }


@transaction.atomic
def change(user: User, changes: dict[str, Any]) -> None:
    """Write what was changed. A new threshold is looked at with the balance as it is: it may be low by it."""
    written = {COLUMNS[name]: value for name, value in changes.items() if name in COLUMNS}
    if written:
        User.objects.filter(pk=user.pk).update(**written)
        user.refresh_from_db()
    if "lowBalanceThreshold" in changes:
        account = Account.objects.select_for_update().get(pk=ledger.account_of(user).pk)
        Account.objects.filter(pk=account.pk).update(low_balance_threshold=changes["lowBalanceThreshold"])
        account.refresh_from_db()
        low_balance.look_at(account)
