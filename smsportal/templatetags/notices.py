"""Notices, where a template wants to show them."""

from django import template
from django.db.models import QuerySet

from smsportal.models import Notice

register = template.Library()


@register.simple_tag
def critical_notices() -> QuerySet[Notice]:
    """What the staff must not overlook, the latest first."""
    return Notice.objects.filter(user=None, ended_at=None, level=Notice.Level.CRITICAL).order_by("-created_at")[:5]
