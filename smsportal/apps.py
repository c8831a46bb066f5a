from django.apps import AppConfig


class SmsPortalConfig(AppConfig):
    name = "smsportal"
    verbose_name = "Users and keys"

    def ready(self) -> None:
        from smsportal import checks  # noqa: F401  # registers them
