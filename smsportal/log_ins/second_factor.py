"""The second factor of the staff: codes of an app (TOTP, RFC 6238), and recovery codes for when it is lost.

Kept by django-otp, which lets no code be used twice and makes who guesses wait longer each time.
"""

import base64
import functools
import re
from typing import Any

import django_otp
import segno
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.contrib.auth.decorators import login_required
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice, default_key

from smsportal.log_admin import note
from smsportal.models import User
from smsportal.visits import Page

RECOVERY_CODES = 10
OFFER_S = 3600  # for so long a key that was offered can be set up
SALT = "smsportal.second_factor"


def missing(request: Any) -> str | None:
    """The name of the page that somebody on the staff has to visit before the admin; None for no page."""
    if request.user.is_verified():
        return None
    if not hasattr(request, "has_second_factor"):  # a page of the admin asks twice
        request.has_second_factor = device_of(request.user) is not None
    if request.has_second_factor:
        return "second-factor-code"
    return "second-factor" if settings.STAFF_TOTP == "required" else None


def device_of(user: User) -> TOTPDevice | None:
    """What makes the user's codes."""
    return TOTPDevice.objects.filter(user=user, confirmed=True).first()


def recovery_codes_left(user: User) -> int:
    return int(StaticToken.objects.filter(device__user=user).count())


def remove(user: User) -> bool:
    """Forget the user's second factor and recovery codes; False when there was none."""
    StaticDevice.objects.filter(user=user).delete()
    return bool(TOTPDevice.objects.filter(user=user).delete()[0])


@sensitive_variables()
def verify(user: User, code: str) -> TOTPDevice | StaticDevice | None:
    """The device that takes this code, which no device takes again; None for a wrong, used or too quick one."""
    kind = TOTPDevice if re.fullmatch("[0-9]{6}", code) else StaticDevice
    with transaction.atomic():
        device = kind.objects.select_for_update().filter(user=user, confirmed=True).first()
        return device if device and device.verify_token(code) else None


@sensitive_variables()
def new_recovery_codes(user: User) -> list[str]:
    """Codes that work once each, and instead of all earlier ones."""
    codes = [StaticToken.random_token() for _ in range(RECOVERY_CODES)]
    device, _ = StaticDevice.objects.get_or_create(user=user, name="recovery codes")
    device.token_set.all().delete()
    StaticToken.objects.bulk_create(StaticToken(device=device, token=code) for code in codes)
    return codes


# --- pages ------------------------------------------------------------------------------------------------------------


class CodeForm(forms.Form):
    code = forms.CharField(
        max_length=16,
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false"}),
        error_messages={"required": "Type the code."},
    )

    def clean_code(self) -> str:
        return re.sub(r"[\s-]", "", self.cleaned_data["code"]).lower()


def for_staff(view: Page) -> Page:
    @functools.wraps(view)
    def guarded(request: Any) -> HttpResponse:
        if not request.user.is_staff:
            raise PermissionDenied
        return view(request)

    return login_required(guarded)


def for_verified(view: Page) -> Page:
    """For changes to a second factor: only those who have just used it make them."""

    @functools.wraps(view)
    def guarded(request: Any) -> HttpResponse:
        if not request.user.is_verified():
            return redirect(f"{reverse('second-factor-code')}?{REDIRECT_FIELD_NAME}={reverse('second-factor')}")
        return view(request)

    return for_staff(require_POST(guarded))


@for_staff
@require_http_methods(["GET", "HEAD", "POST"])
def enter_code(request: Any) -> HttpResponse:
    """Ask for the code, after the password; then on to where one was going."""
    target = request.POST.get(REDIRECT_FIELD_NAME) or request.GET.get(REDIRECT_FIELD_NAME, "")
    if not url_has_allowed_host_and_scheme(target, {request.get_host()}, require_https=request.is_secure()):
        target = reverse("admin:index")
    form = CodeForm(request.POST or None)
    if form.is_valid():
        if device := verify(request.user, form.cleaned_data["code"]):
            _let_in(request, device)
            return redirect(target)
        form.add_error("code", "This code is wrong, was used before, or came too soon after a wrong one.")
    return render(request, "account/enter_code.html", {"form": form, "next": target})


@for_staff
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables()
def set_up(request: Any) -> HttpResponse:
    """Offer a key, as a picture for the app; with a code that the app made of it, take it into use."""
    if device := device_of(request.user):
        return render(
            request, "account/second_factor.html", {"device": device, "left": recovery_codes_left(request.user)}
        )
    key = _key_offered(request)
    form = CodeForm(request.POST if key else None)
    if key and form.is_valid():
        if codes := _take_into_use(request, key, form.cleaned_data["code"]):
            return render(request, "account/recovery_codes.html", {"codes": codes})
        form.add_error("code", "The app does not show this code. Is its clock right? Try the next one.")
    key = key or default_key()
    offer = TOTPDevice(user=request.user, key=key)
    context = {
        "form": form,
        "sealed": signing.dumps([str(request.user.pk), key], salt=SALT),
        "picture": segno.make(offer.config_url, error="m").svg_data_uri(scale=5, border=4, light="#fff"),
        "secret": base64.b32encode(offer.bin_key).decode(),
        "is_required": settings.STAFF_TOTP == "required",
    }
    return render(request, "account/second_factor.html", context)


@for_verified
@sensitive_variables()
def renew_recovery_codes(request: Any) -> HttpResponse:
    with transaction.atomic():
        codes = new_recovery_codes(request.user)
        note(request, request.user, "Made new recovery codes.")
    return render(request, "account/recovery_codes.html", {"codes": codes})


@for_verified
def give_up(request: Any) -> HttpResponse:
    with transaction.atomic():
        remove(request.user)
        note(request, request.user, "Gave up the second factor.")
    messages.success(request, "Your second factor is removed.")
    return redirect("second-factor")


@sensitive_variables()
def _key_offered(request: HttpRequest) -> str | None:
    """The key that this user was offered of late. The form carries it, sealed: looking at a page stores nothing."""
    try:
        user_id, key = signing.loads(request.POST.get("sealed", ""), salt=SALT, max_age=OFFER_S)
    except signing.BadSignature:
        return None
    return str(key) if user_id == str(request.user.pk) else None


@sensitive_variables()
def _take_into_use(request: Any, key: str, code: str) -> list[str] | None:
    with transaction.atomic():
        User.objects.select_for_update().get(pk=request.user.pk)  # of two windows, one sets it up
        if device_of(request.user):
            return None
        device = TOTPDevice.objects.create(user=request.user, name="app", key=key)
        if not re.fullmatch("[0-9]{6}", code) or not device.verify_token(code):
            transaction.set_rollback(True)
            return None
        note(request, request.user, "Set up a second factor.")
        codes = new_recovery_codes(request.user)
    _let_in(request, device)
    return codes


def _let_in(request: Any, device: TOTPDevice | StaticDevice) -> None:
    request.session.cycle_key()  # with more rights, another session
    django_otp.login(request, device)
