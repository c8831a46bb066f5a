from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("smsportal", "0006_webhook_delivery_age"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="notice",
            index=models.Index(
                condition=models.Q(("ended_at__isnull", False)), fields=["ended_at"], name="notice_over"
            ),
        ),
    ]
