"""The pages of keys, the first section of the settings. Each section has its link in settings/base.html."""

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_variables

from smsportal.exceptions import DomainError
from smsportal.keys.forms import KeyForm, RotateForm
from smsportal.models import ApiKey, User
from smsportal.visits import Visit, page


@page("GET", "HEAD")
def keys(request: Visit) -> HttpResponse:
    """Your keys, the newest first."""
    found = ApiKey.objects.of(request.user).select_related("user__live_user", "replacement").order_by("-pk")
    return render(request, "settings/keys.html", {"keys": found})


@page("GET", "HEAD", "POST")
def new_key(request: Visit) -> HttpResponse:
    """Make a key. Its secret is in the answer to the POST and nowhere else."""
    form = KeyForm(request.POST or None)
    if not form.is_valid():
        return render(request, "settings/new_key.html", {"form": form})
    return _show_secret(request, *ApiKey.issue(request.user, **form.cleaned_data))


@page("GET", "HEAD", "POST")
@sensitive_variables("secret")
def rotate_key(request: Visit, key_id: int) -> HttpResponse:
    """GET asks for how long the old key works on; POST makes the new one."""
    key = _key_or_404(request.user, key_id)
    form = RotateForm(request.POST or None)
    if not form.is_valid():
        return render(request, "settings/rotate_key.html", {"key": key, "form": form})
    try:
        new, secret = key.rotate(timedelta(hours=form.cleaned_data["keep_hours"]))
    except DomainError as error:
        messages.error(request, error.message)
        return redirect("settings:keys")
    return _show_secret(request, new, secret)


@page("GET", "HEAD", "POST")
def revoke_key(request: Visit, key_id: int) -> HttpResponse:
    """GET asks; POST ends the key."""
    key = _key_or_404(request.user, key_id)
    if request.method != "POST":
        return render(request, "settings/revoke_key.html", {"key": key})
    if key.revoke():
        messages.success(request, f"The key {key} is revoked: no request with it is let in from now on.")
    else:
        messages.warning(request, f"The key {key} was revoked before.")
    return redirect("settings:keys")


def _key_or_404(user: User, key_id: int) -> ApiKey:
    return get_object_or_404(ApiKey.objects.of(user).select_related("user__live_user"), pk=key_id)


@sensitive_variables("secret")
def _show_secret(request: HttpRequest, key: ApiKey, secret: str) -> HttpResponse:
    context = {"key": key, "secret": secret, "address": settings.PUBLIC_URL}
    return render(request, "settings/secret.html", context)
