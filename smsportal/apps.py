from django.apps import AppConfig


class SmsPortalConfig(AppConfig):
    name = "smsportal"
    verbose_name = "Users and keys"
