from django.apps import AppConfig


class OutboxConfig(AppConfig):
    name = "outbox"
    verbose_name = "Messages"

    def ready(self) -> None:
        from outbox import checks  # noqa: F401  # registers them
