"""Django's settings, made of the typed environment; the embedded mode is the default of every one."""

import os
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key
from pydantic import ValidationError

from headshots import faults
from headshots.env import embedded_defaults, is_live, parse_licences, payment_problem, read_environment
from headshots.mail_settings import TIMEOUT_SECONDS, read_mail_server
from headshots.services.networks import parse_networks

try:
    ENVIRONMENT = read_environment()
except ValidationError as error:
    wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    raise ImproperlyConfigured(f"wrong settings: {wrong}") from None

IS_PRODUCTION = ENVIRONMENT.env == "production"
if IS_PRODUCTION and (left := embedded_defaults(ENVIRONMENT)):
    raise ImproperlyConfigured(
        f"HEADSHOTS_ENV=production, but these still hold an embedded default: {', '.join(left)}"
    )
if IS_PRODUCTION and faults.is_set():
    raise ImproperlyConfigured(f"{faults.VARIABLE} kills processes at chosen points, for tests; unset it")

DATA = ENVIRONMENT.data.resolve()
os.umask(0o077)
for folder in (DATA, DATA / "blobs", DATA / "keys", DATA / "queue", DATA / "queue" / "control"):
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _secret_key(path: Path) -> str:
    """The embedded secret key: made once, kept in a file that only we can read."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(get_random_secret_key())
    except FileExistsError:
        pass
    return path.read_text()


# A server that vanished without a word is noticed after 20 s, so that a heartbeat on a new connection still
# comes within the lease. Queries may take longer: the kernels of both sides answer for it.
POSTGRES_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
}


def _database(url: str) -> dict[str, Any]:
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA / "headshots.sqlite3",
            "TEST": {"NAME": DATA / "test.sqlite3"},  # a real file: what is erased must be gone from it
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",  # a writer waits at BEGIN instead of failing in the middle
                "init_command": (
                    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON;"
                ),
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured("DATABASE_URL must begin with postgres://")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": POSTGRES_OPTIONS,
    }


SECRET_KEY = ENVIRONMENT.secret_key or _secret_key(DATA / "keys" / "django.secret")
DEBUG = ENVIRONMENT.debug
ALLOWED_HOSTS = [host.strip() for host in ENVIRONMENT.allowed_hosts.split(",") if host.strip()]
SITE_URL = ENVIRONMENT.site_url.rstrip("/").lower()
if not re.fullmatch(r"https?://[a-z0-9]+([.-][a-z0-9]+)*(:\d+)?", SITE_URL):
    raise ImproperlyConfigured("SITE_URL must be a scheme and a host, like https://headshots.example")
CSRF_TRUSTED_ORIGINS = [SITE_URL]

DATABASES = {"default": _database(ENVIRONMENT.database_url)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "headshots.apps.HeadshotsConfig",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "ninja",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "headshots.web.middleware.security_headers",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "headshots.web.middleware.bounded_body",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "headshots.urls"
WSGI_APPLICATION = "headshots.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / part / "templates" for part in ("web", "admin", "api")],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "headshots.web.context.site",
            ]
        },
    }
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [Path(__file__).parent / "web" / "static"]
WHITENOISE_USE_FINDERS = True  # serves from the packages themselves: no collectstatic step to forget
WHITENOISE_AUTOREFRESH = False

# Photos stay in memory: never Django's temporary files, and never more than one photo's worth.
FILE_UPLOAD_HANDLERS = ["headshots.web.uploadhandler.BoundedMemoryUploadHandler"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 300
DATA_UPLOAD_MAX_NUMBER_FILES = 4

SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_PRODUCTION
SECURE_SSL_REDIRECT = IS_PRODUCTION
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if IS_PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = IS_PRODUCTION
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if IS_PRODUCTION else None
CSRF_FAILURE_VIEW = "headshots.web.views.csrf_failure"
# Not "no-referrer": browsers then post forms with "Origin: null", which the CSRF check refuses.
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

BROKER_URL = ENVIRONMENT.broker_url
ROOT_KEYS = ENVIRONMENT.root_keys
BLOB_STORE = ENVIRONMENT.blob_store
S3_ENDPOINT_URL = ENVIRONMENT.s3_endpoint_url or None
EPOCH_STORE = ENVIRONMENT.epoch_store
RECEIPT_KEY = ENVIRONMENT.receipt_key
PICTURE_KEY = ENVIRONMENT.picture_key
PICTURE_CERTIFICATE = ENVIRONMENT.picture_certificate
ENGINE = ENVIRONMENT.engine
WEIGHTS = ENVIRONMENT.weights
DEVICE = ENVIRONMENT.device
SLOTS = ENVIRONMENT.slots
if ENGINE == "instantid" and WEIGHTS is None:
    raise ImproperlyConfigured(
        "ENGINE=instantid needs WEIGHTS, the folder that `manage.py weights fetch` fills"
    )
WEIGHTS_LICENCES = parse_licences(ENVIRONMENT.weights_licences)
FREE_WORK = ENVIRONMENT.free_work
FREE_PER_HOUR = ENVIRONMENT.free_per_hour
FREE_PER_DAY = ENVIRONMENT.free_per_day
FREE_PER_ADDRESS = ENVIRONMENT.free_per_address
PREMIUM_PER_HOUR = ENVIRONMENT.premium_per_hour
PREMIUM_PER_DAY = ENVIRONMENT.premium_per_day
TRUSTED_PROXIES = parse_networks(ENVIRONMENT.trusted_proxies)
PAYMENTS = ENVIRONMENT.payments
STRIPE_SECRET_KEY = ENVIRONMENT.stripe_secret_key
STRIPE_WEBHOOK_SECRET = ENVIRONMENT.stripe_webhook_secret
STRIPE_API_BASE = ENVIRONMENT.stripe_api_base
STRIPE_IS_LIVE = is_live(ENVIRONMENT)
if problem := payment_problem(ENVIRONMENT):
    raise ImproperlyConfigured(problem)
try:
    _mail = read_mail_server(ENVIRONMENT)
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from None
DEFAULT_FROM_EMAIL = ENVIRONMENT.mail_from
EMAIL_BACKEND, EMAIL_TIMEOUT = _mail.backend, TIMEOUT_SECONDS
EMAIL_HOST, EMAIL_PORT = _mail.host, _mail.port
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail.user, _mail.password
EMAIL_USE_TLS, EMAIL_USE_SSL = _mail.uses_starttls, _mail.uses_tls
SANDBOX_FILTER = ENVIRONMENT.sandbox_filter
LEASE_SECONDS = ENVIRONMENT.lease_seconds
STUCK_SECONDS = ENVIRONMENT.stuck_seconds
PURGE_SETTLE_SECONDS = ENVIRONMENT.settle_seconds

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"events": {"class": "headshots.logs.EventHandler"}},
    "root": {"handlers": ["events"], "level": "INFO"},
    # Django's own handlers mail and print whole requests.
    "loggers": {
        # A worker's log level is about the libraries; what ours have to say is meant for the operator.
        "headshots": {"level": "INFO"},
        "pipelines": {"level": "INFO"},
        "django": {"handlers": [], "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
    },
}
