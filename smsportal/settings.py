"""Settings, all from the environment; the README lists each variable with its default."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")  # what the environment itself says wins

DEBUG = env.bool("DEBUG", default=False)
# No default: Django refuses to work with an empty key. `demo` and the tests make one of their own.
SECRET_KEY = env.str("SECRET_KEY", default="")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
PUBLIC_URL = env.str("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")

INSTALLED_APPS = [
    "smsportal",
    "billing",
    "outbox",
    "smsportal.apps.PortalAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_filters",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "axes",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
]

MIDDLEWARE = [
    "smsportal.middleware.logged",  # outermost: whatever is answered has a request id and a line in the log
    "smsportal.api.problems.ProblemMiddleware",  # no error below /api/ escapes it
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "smsportal.middleware.private_pages",  # all but static files: errors, too
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django_otp.middleware.OTPMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",  # answers 429 when a log-in was refused
]

ROOT_URLCONF = "smsportal.urls"
WSGI_APPLICATION = "smsportal.wsgi.application"
WEB_THREADS = env.int("WEB_THREADS", default=16)
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _database() -> dict[str, Any]:
    database: dict[str, Any] = env.db_url("DATABASE_URL", engine="django.db.backends.postgresql")
    options = database.setdefault("OPTIONS", {})
    # A lock that somebody else holds, or a statement that never ends, becomes an error that can be answered.
    statement_timeout = env.int("DATABASE_STATEMENT_TIMEOUT_S", default=30)
    limits = (
        f"-c lock_timeout=1500ms -c statement_timeout={statement_timeout}s -c idle_in_transaction_session_timeout=60s"
        " -c synchronous_commit=on"  # whatever the server's own says: what was answered is on the disk
    )
    options["options"] = f"{limits} {options.get('options', '')}".strip()
    options.setdefault("connect_timeout", 2)
    # A machine that vanishes without a word: noticed after seconds, not after the quarter of an hour that TCP takes.
    options.setdefault("tcp_user_timeout", 2000)
    options.update({"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 2} | options)
    # Each thread keeps its connection, so none waits for another's: no pool, whose callers, when PostgreSQL is gone,
    # would wait where an attempt to connect fails at once. One that PostgreSQL has dropped is replaced before its use.
    database["CONN_MAX_AGE"] = 600
    database["CONN_HEALTH_CHECKS"] = True
    return database


# Without DATABASE_URL nothing but `demo` can run; Django's own message and outbox.checks say so.
DATABASES = {"default": _database()} if env.str("DATABASE_URL", "") else {}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- people and their browsers ----------------------------------------------------------------------------------------
AUTH_USER_MODEL = "smsportal.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "outbox:list"
LOGOUT_REDIRECT_URL = "login"

# How many proxies before the site add to X-Forwarded-For; further addresses in it are not believed.
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)

# Log-ins: see smsportal.log_ins.lockout.
LOGIN_TRIES = 5  # of one name from one network, before it has to wait
LOGIN_TRIES_OF_A_NETWORK = 100  # of all names together
LOGIN_COOL_OFF = timedelta(minutes=15)
AXES_HANDLER = "smsportal.log_ins.lockout.CountFirst"
AXES_CLIENT_IP_CALLABLE = "smsportal.addresses.client_network"
AXES_LOCKOUT_CALLABLE = "smsportal.log_ins.lockout.locked_out"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # trying on does not prolong the wait
AXES_ENABLE_ADMIN = False  # ours is in smsportal.admin
AXES_VERBOSE = False

STAFF_TOTP = env.str("STAFF_TOTP", default="optional")  # or "required": see smsportal.log_ins.second_factor
OTP_TOTP_ISSUER = "SMS Portal"

HTTPS = urlsplit(PUBLIC_URL).scheme == "https"
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = ["^(healthz|readyz|metrics)$"]  # asked from inside, where there is no TLS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
CSRF_COOKIE_HTTPONLY = True  # forms carry the token; no script of ours needs the cookie
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
# Only behind a proxy that sets or removes the header itself: else anybody could claim to come by HTTPS.
if env.bool("BEHIND_TLS_PROXY", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],  # Pico and Swagger UI draw their icons from data: addresses
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# --- language and time ------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True
FORMAT_MODULE_PATH = ["smsportal.formats"]

# --- static files -----------------------------------------------------------------------------------------------------
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = BASE_DIR / "staticfiles"
# Without collectstatic, as the demo and the tests do it.
WHITENOISE_USE_FINDERS = WHITENOISE_AUTOREFRESH = env.bool("SERVE_STATIC_FROM_SOURCE", default=DEBUG)

# --- the API ----------------------------------------------------------------------------------------------------------
DATA_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024  # bytes; the largest send is far below it
BAD_KEYS_PER_MINUTE = env.int("BAD_KEYS_PER_MINUTE", default=100)  # from one address; 0 for no limit
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "smsportal.api.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": [
        "rest_framework.permissions.IsAuthenticated",
        "smsportal.api.permissions.HasScope",
    ],
    "DEFAULT_PARSER_CLASSES": ["smsportal.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "smsportal.api.negotiation.JsonOnly",
    "DEFAULT_PAGINATION_CLASS": "smsportal.api.pagination.KeysetPagination",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "smsportal.api.schema.Schema",
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "smsportal.api.problems.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "SMS Portal API",
    "DESCRIPTION": "Send single SMS with prepaid money; look up, explain and resend each of them. Every error is "
    "`application/problem+json` (RFC 9457); its `code` is explained at [/api/errors](/api/errors).\n\n"
    + (BASE_DIR / "smsportal/api/quick_start.md").read_text(),
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "smsportal.api.schema.headers_of_answers",
    ],
    "TAGS": [
        {"name": "sms", "description": "Messages: send, look up, send again, withdraw."},
        {"name": "billing", "description": "Money: what is left, where it went, what things cost."},
        {"name": "alerts", "description": "What you should know, and how you are told."},
        {"name": "webhooks", "description": "Your addresses that are told of events."},
    ],
    "ENUM_NAME_OVERRIDES": {
        "OutboxStatus": "outbox.models.Outbox.Status",
        "ChargeStatus": "outbox.models.Outbox.ChargeStatus",
        "DeliveryStatus": "outbox.models.Outbox.DeliveryStatus",
        "OutboxOutcome": "outbox.models.Outbox.Outcome",
        "AttemptOutcome": "outbox.models.Attempt.Outcome",
    },
}

# --- SMS --------------------------------------------------------------------------------------------------------------
SMS_PROVIDERS: dict[str, dict[str, Any]] = env.json("SMS_PROVIDERS", default={})
SMS_ROUTES: dict[str, list[str]] = env.json("SMS_ROUTES", default={})  # empty: all providers, in order, for all numbers
SMS_CURRENCY = env.str("SMS_CURRENCY", default="USD")
SMS_DEFAULT_REGION = env.str("SMS_DEFAULT_REGION", default="")
SMS_MAX_RETRIES = env.int("SMS_MAX_RETRIES", default=3)
SMS_MAX_SEGMENTS = env.int("SMS_MAX_SEGMENTS", default=6)
SMS_VALIDITY_MINUTES = env.int("SMS_VALIDITY_MINUTES", default=1440)
SMS_UNKNOWN_AFTER_HOURS = env.int("SMS_UNKNOWN_AFTER_HOURS", default=72)
SMS_LOW_BALANCE_THRESHOLD = env.str("SMS_LOW_BALANCE_THRESHOLD", default="10")

# How many messages; 0 for no limit. See outbox/limits.py.
SMS_RATE_LIMIT_PER_MINUTE = env.int("SMS_RATE_LIMIT_PER_MINUTE", default=6000)
SMS_KEY_RATE_LIMIT_PER_MINUTE = env.int("SMS_KEY_RATE_LIMIT_PER_MINUTE", default=0)
SMS_RECIPIENT_LIMIT_PER_MINUTE = env.int("SMS_RECIPIENT_LIMIT_PER_MINUTE", default=0)
SMS_RECIPIENT_LIMIT_PER_HOUR = env.int("SMS_RECIPIENT_LIMIT_PER_HOUR", default=0)
SMS_PREFIX_LIMIT_PER_MINUTE = env.int("SMS_PREFIX_LIMIT_PER_MINUTE", default=0)
SMS_OTP_COOL_DOWN_S = env.int("SMS_OTP_COOL_DOWN_S", default=0)
SMS_DUPLICATE_GUARD = env.str("SMS_DUPLICATE_GUARD", default="off")
SMS_DUPLICATE_WINDOW_S = env.int("SMS_DUPLICATE_WINDOW_S", default=60)

# --- telling people and their apps ------------------------------------------------------------------------------------
vars().update(env.email_url("EMAIL_URL", default="consolemail://"))
DEFAULT_FROM_EMAIL = env.str("EMAIL_FROM", default="sms-portal@localhost")
# For trying webhooks on one machine; elsewhere strangers would have us call what is ours.
WEBHOOKS_TO_PRIVATE_ADDRESSES = env.bool("WEBHOOKS_TO_PRIVATE_ADDRESSES", default=False)

METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

LOG_FORMAT = env.str("LOG_FORMAT", default="json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "smsportal.logs.formatter", "shape": LOG_FORMAT}},
    "filters": {"hide_strangers_words": {"()": "smsportal.logs.HideStrangersWords"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["hide_strangers_words"]}
    },
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        # Django's own handler mails the admins with the request's body in it; ours writes one line.
        "django": {"handlers": [], "propagate": True},
        # What the line about each request says already.
        "django.request": {"level": "ERROR"},
        "django.server": {"handlers": [], "propagate": False},
        # A stranger with a wrong Host would fill the log with tracebacks.
        "django.security.DisallowedHost": {"handlers": [], "propagate": False},
        # At DEBUG, every statement with its values: texts and numbers.
        "django.db.backends": {"level": "INFO"},
    },
}
