from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("smsportal", "0005_rate_limits"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(condition=models.Q(("due_at", None)), fields=["created_at"], name="webhook_age"),
        ),
    ]
