import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import smsportal.models


class Migration(migrations.Migration):
    dependencies = [
        ("smsportal", "0002_notices"),
    ]

    operations = [
        migrations.CreateModel(
            name="NoticeSubject",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("subject", models.UUIDField()),
            ],
        ),
        migrations.CreateModel(
            name="WebhookDelivery",
            fields=[
                (
                    "id",
                    models.UUIDField(default=smsportal.models.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "event",
                    models.CharField(
                        choices=[
                            ("sms.sent", "Sent"),
                            ("sms.failed", "Failed"),
                            ("sms.delivered", "Delivered"),
                            ("balance.low", "Balance Low"),
                            ("test", "test"),
                        ],
                        max_length=16,
                    ),
                ),
                ("body", models.TextField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("due_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), null=True)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                ("delivered_at", models.DateTimeField(null=True)),
                ("last_attempt_at", models.DateTimeField(null=True)),
                ("last_status", models.PositiveSmallIntegerField(null=True)),
                ("last_error", models.CharField(max_length=200, null=True)),
            ],
            options={
                "verbose_name_plural": "webhook deliveries",
            },
        ),
        migrations.CreateModel(
            name="WebhookEndpoint",
            fields=[
                (
                    "id",
                    models.UUIDField(default=smsportal.models.uuid7, editable=False, primary_key=True, serialize=False),
                ),
                ("url", models.CharField(max_length=2000)),
                (
                    "events",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("sms.sent", "Sent"),
                                ("sms.failed", "Failed"),
                                ("sms.delivered", "Delivered"),
                                ("balance.low", "Balance Low"),
                            ],
                            max_length=16,
                        ),
                        size=None,
                    ),
                ),
                ("secret", models.CharField(editable=False, max_length=64)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("disabled_at", models.DateTimeField(null=True)),
                ("disabled_reason", models.CharField(max_length=200, null=True)),
            ],
        ),
        migrations.AddField(
            model_name="notice",
            name="email_attempts",
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="notice",
            name="email_due_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="notice",
            name="emailed_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="notice",
            name="read_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="user",
            name="alert_email",
            field=models.EmailField(
                blank=True, help_text="Where to; empty for the user's own address.", max_length=254
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="email_alerts",
            field=models.BooleanField(default=False, help_text="Send notices by e-mail too."),
        ),
        migrations.AddField(
            model_name="user",
            name="failure_alerts",
            field=models.BooleanField(default=True, help_text="Tell the user of failed messages."),
        ),
        migrations.AddIndex(
            model_name="notice",
            index=models.Index(fields=["user", "-id"], name="notice_of_user"),
        ),
        migrations.AddIndex(
            model_name="notice",
            index=models.Index(
                condition=models.Q(("email_due_at__isnull", False)), fields=["email_due_at"], name="notice_to_email"
            ),
        ),
        migrations.AddField(
            model_name="noticesubject",
            name="notice",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="subjects", to="smsportal.notice"
            ),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="user",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="webhook_endpoints",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            model_name="webhookdelivery",
            name="endpoint",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="deliveries", to="smsportal.webhookendpoint"
            ),
        ),
        migrations.AddIndex(
            model_name="noticesubject",
            index=models.Index(fields=["subject"], name="notice_subject"),
        ),
        migrations.AddConstraint(
            model_name="noticesubject",
            constraint=models.UniqueConstraint(fields=("notice", "subject"), name="notice_subject_once"),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(condition=models.Q(("due_at__isnull", False)), fields=["due_at"], name="webhook_due"),
        ),
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(fields=["endpoint", "-id"], name="webhook_log"),
        ),
    ]
