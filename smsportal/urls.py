"""All addresses of the site."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.decorators.http import require_http_methods, require_safe
from django.views.generic import TemplateView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from smsportal.api.problems import KINDS
from smsportal.keys import pages as key_pages
from smsportal.log_ins import second_factor
from smsportal.log_ins.password import PasswordView

page_with_form = require_http_methods(["GET", "HEAD", "POST"])

handler500 = "smsportal.api.problems.server_error"


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Whether the web server is up; it asks nobody else."""
    return HttpResponse("ok", content_type="text/plain")


# What Django's views take for a form by other methods than POST, or answer to all of them, is 405 here as elsewhere.
errors = require_safe(TemplateView.as_view(template_name="api_errors.html", extra_context={"kinds": KINDS}))
login = page_with_form(LoginView.as_view(template_name="login.html", redirect_authenticated_user=True))
password = page_with_form(PasswordView.as_view())
settings_pages = [
    path("", key_pages.keys, name="keys"),
    path("keys/new/", key_pages.new_key, name="new_key"),
    path("keys/<int:key_id>/rotate/", key_pages.rotate_key, name="rotate_key"),
    path("keys/<int:key_id>/revoke/", key_pages.revoke_key, name="revoke_key"),
]

urlpatterns = [
    path("healthz", healthz),
    path("", include("outbox.urls")),
    path("", include("billing.urls")),
    path("", include("smsportal.webhooks.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(), name="docs"),
    path("api/errors", errors),
    path("settings/", include((settings_pages, "settings"))),
    path("admin/", admin.site.urls),
    path("login/", login, name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("account/password/", password, name="password"),
    path("account/second-factor/", second_factor.set_up, name="second-factor"),
    path("account/second-factor/code/", second_factor.enter_code, name="second-factor-code"),
    path("account/second-factor/recovery/", second_factor.renew_recovery_codes, name="second-factor-recovery"),
    path("account/second-factor/remove/", second_factor.give_up, name="second-factor-remove"),
]
