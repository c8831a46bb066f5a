from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class SmsPortalConfig(AppConfig):
    name = "smsportal"
    verbose_name = "Users and keys"

    def ready(self) -> None:
        from smsportal import checks  # noqa: F401  # registers them


class PortalAdminConfig(admin_apps.AdminConfig):
    default = False
    default_site = "smsportal.log_ins.admin_site.PortalAdminSite"
