"""Nobody's traffic stops: what users send as today is approved, their default and every sender ID of their outbox.

Of two users with names that look alike both keep theirs, the later one's as shared; the staff can see them and decide.
"""

from django.db import connection, migrations
from django.db.models.functions import Now

from outbox.look_alikes import fold

# The default first: of names that look alike to each other it gives the spelling.
IN_USE = """
    SELECT user_id, name FROM (
        SELECT id AS user_id, default_sender_id AS name, 0 AS place FROM smsportal_user WHERE default_sender_id <> ''
        UNION ALL
        SELECT DISTINCT user_id, sender_id, 1 FROM outbox_outbox WHERE sender_id <> ''
    ) AS used ORDER BY user_id, place, name
"""


def approve(apps, schema_editor):
    SenderId = apps.get_model("outbox", "SenderId")
    with connection.cursor() as cursor:
        cursor.execute(IN_USE)
        used = cursor.fetchall()
    spellings, owners = {}, set()
    for user_id, name in used:
        if folded := fold(name)[:32]:
            spellings.setdefault((user_id, folded), name)
    rows = []
    for (user_id, folded), name in spellings.items():
        rows.append(
            SenderId(
                user_id=user_id,
                name=name,
                folded=folded,
                state="approved",
                is_shared=folded in owners,
                decided_at=Now(),
                reason="In use before sender IDs had to be approved.",
            )
        )
        owners.add(folded)
    SenderId.objects.bulk_create(rows)


class Migration(migrations.Migration):
    dependencies = [("outbox", "0006_sender_ids_and_opt_outs"), ("smsportal", "0005_rate_limits")]

    operations = [migrations.RunPython(approve, migrations.RunPython.noop)]
