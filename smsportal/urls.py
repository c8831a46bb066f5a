"""All addresses of the site."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.generic import TemplateView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from smsportal import second_factor
from smsportal.account import PasswordView
from smsportal.api.problems import KINDS

handler500 = "smsportal.api.problems.server_error"


def healthz(request: HttpRequest) -> HttpResponse:
    """Whether the web server is up; it asks nobody else."""
    return HttpResponse("ok", content_type="text/plain")


urlpatterns = [
    path("healthz", healthz),
    path("", include("outbox.urls")),
    path("", include("billing.urls")),
    path("", include("smsportal.webhooks.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(), name="docs"),
    path("api/errors", TemplateView.as_view(template_name="api_errors.html", extra_context={"kinds": KINDS})),
    path("admin/", admin.site.urls),
    path("login/", LoginView.as_view(template_name="login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("account/password/", PasswordView.as_view(), name="password"),
    path("account/second-factor/", second_factor.set_up, name="second-factor"),
    path("account/second-factor/code/", second_factor.enter_code, name="second-factor-code"),
    path("account/second-factor/recovery/", second_factor.renew_recovery_codes, name="second-factor-recovery"),
    path("account/second-factor/remove/", second_factor.give_up, name="second-factor-remove"),
]
