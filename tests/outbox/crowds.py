"""Messages by the thousand, without waiting for each to be accepted."""

from django.db import connection, transaction

from billing.models import Account
from outbox.models import Outbox


@transaction.atomic
def multiply(original: Outbox, count: int) -> None:
    """Write `count` more accepted messages like this one, each with its hold; the money for them must be there."""
    account = Account.objects.select_for_update().get(user=original.user_id)
    own = {"id", "message_id"}
    columns = ", ".join(field.column for field in Outbox._meta.concrete_fields if field.column not in own)
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH copy AS (
                INSERT INTO outbox_outbox (id, message_id, {columns})
                SELECT gen_random_uuid(), gen_random_uuid(), {columns}
                FROM outbox_outbox, generate_series(1, %(count)s) WHERE id = %(original)s
                RETURNING id, total_cost
            )
            INSERT INTO billing_posting (account_id, kind, amount, balance_after, held_after, reference, reason)
            SELECT %(account)s, 'hold', total_cost, %(balance)s, %(held)s + SUM(total_cost) OVER (ORDER BY id),
                id || '/0', ''
            FROM copy ORDER BY id
            """,
            {
                "count": count,
                "original": original.pk,
                "account": account.pk,
                "balance": account.balance,
                "held": account.held,
            },
        )
    account.held += count * original.total_cost
    account.save(update_fields=["held"])
