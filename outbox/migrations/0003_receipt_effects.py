from django.db import migrations, models

EFFECTS = [
    ("applied", "changed the message"),
    ("repeated", "said nothing new"),
    ("late", "came too late"),
    ("contradicts", "contradicts what is known"),
    ("orphan", "fits no message"),
    ("unrecognised", "says what we cannot read"),
]

# What was kept as applied or not, told apart as far as it can be told now.
NAME_EFFECTS = """
    UPDATE outbox_receipt AS receipt
    SET effect = CASE
        WHEN receipt.outbox_id IS NULL THEN 'orphan'
        WHEN receipt.applied THEN 'applied'
        WHEN receipt.status = 'unrecognised' THEN 'unrecognised'
        WHEN receipt.status = 'undelivered' AND entry.delivery_status = 'delivered' THEN 'contradicts'
        WHEN receipt.status = 'in_transit' AND entry.delivery_status IS NOT NULL THEN 'late'
        ELSE 'repeated'
    END
    FROM outbox_receipt AS same LEFT JOIN outbox_outbox AS entry ON entry.id = same.outbox_id
    WHERE same.id = receipt.id
"""
FORGET_EFFECTS = "UPDATE outbox_receipt SET applied = (effect = 'applied')"

# Of messages that are unknown when this is installed, the providers are asked from now on.
ASK_FOR_UNKNOWN = """
    UPDATE outbox_attempt AS attempt SET look_up_at = now()
    FROM outbox_outbox AS entry
    WHERE entry.outcome = 'unknown' AND attempt.outbox_id = entry.id AND attempt.number = entry.attempt_count
"""


class Migration(migrations.Migration):
    dependencies = [("outbox", "0002_providers_and_workers")]

    operations = [
        migrations.CreateModel(
            name="UnknownOutcome",
            fields=[],
            options={
                "verbose_name": "unknown outcome",
                "default_permissions": (),
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("outbox.outbox",),
        ),
        migrations.AlterModelOptions(
            name="outbox",
            options={
                "permissions": [
                    ("resend_outbox", "Can resend failed messages"),
                    ("settle_unknown", "Can say whether a message of unknown outcome was sent"),
                ],
                "verbose_name": "message",
                "verbose_name_plural": "outbox",
            },
        ),
        migrations.AddField("attempt", "look_up_at", models.DateTimeField(null=True)),
        migrations.RunSQL(ASK_FOR_UNKNOWN, migrations.RunSQL.noop),
        migrations.AddIndex(
            "attempt",
            models.Index(
                condition=models.Q(("look_up_at__isnull", False)),
                fields=["provider", "look_up_at"],
                name="attempt_to_look_up",
            ),
        ),
        migrations.AddField("receipt", "details", models.TextField(null=True)),
        migrations.AddField(
            "receipt",
            "effect",
            models.CharField(choices=EFFECTS, default="repeated", max_length=12),
            preserve_default=False,
        ),
        migrations.AlterField("receipt", "applied", models.BooleanField(default=False)),  # for the way back
        migrations.RunSQL(NAME_EFFECTS, FORGET_EFFECTS),
        migrations.RemoveField("receipt", "applied"),
        migrations.AddConstraint(
            "receipt",
            models.CheckConstraint(
                condition=models.Q(
                    models.Q(("effect", "orphan"), ("outbox", None)),
                    models.Q(models.Q(("effect", "orphan"), _negated=True), ("outbox__isnull", False)),
                    _connector="OR",
                ),
                name="receipt_orphan_has_no_message",
            ),
        ),
        migrations.AddIndex(
            "receipt",
            models.Index(
                condition=models.Q(("effect__in", ["orphan", "contradicts"])),
                fields=["effect", "-id"],
                name="receipt_for_staff",
            ),
        ),
        migrations.AddIndex(
            "receipt",
            models.Index(
                condition=models.Q(("effect", "orphan")),
                fields=["provider", "provider_message_id"],
                name="receipt_orphans",
            ),
        ),
    ]
