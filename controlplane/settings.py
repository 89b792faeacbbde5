"""Every setting of Berth, read from the environment (and `.env`) in this one place.

`docs/settings.md` is the table of them for people; a test compares the two. What is wrong with a value is said by the
system checks in `controlplane/checks.py`.
"""

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
env.read_env(BASE_DIR / ".env")


def number(name: str, default: int) -> int:
    """A whole number from the environment."""
    try:
        return int(env.int(name, default=default))
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {env.str(name)!r}. Use a whole number, such as {default}.") from None


def numbers(name: str, default: list[int]) -> list[int]:
    """Whole numbers from the environment, separated by commas."""
    try:
        return [int(each) for each in env.list(name, default=default)]
    except ValueError:
        example = ",".join(map(str, default))
        raise ImproperlyConfigured(f"{name} is {env.str(name)!r}. Use whole numbers, such as {example}.") from None


# --- this installation ---------------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
DATA_DIR = (BASE_DIR / env.str("DATA_DIR", default="var")).resolve()
PORT = number("PORT", default=8000)
INSTALLATION = env.str("INSTALLATION", default="berth")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
ADMIN_PASSWORD = env.str("ADMIN_PASSWORD", default="")
HTTPS = env.bool("HTTPS", default=False)
PROXIES = number("PROXIES", default=1 if HTTPS else 0)
PROXY_NETWORKS = env.list("PROXY_NETWORKS", default=[])
LOG_FORMAT = env.str("LOG_FORMAT", default="text")
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")

# --- where runs execute --------------------------------------------------------------------------------------------
RUNTIME = env.str("RUNTIME", default="local")
COURIER_URL = env.str("COURIER_URL", default=f"http://127.0.0.1:{PORT}").rstrip("/")
DOORS_ONLY = env.bool("DOORS_ONLY", default=False)
COURIER_IMAGE = env.str("COURIER_IMAGE", default="registry.local/courier:latest")
WORKBENCH_IMAGE = env.str("WORKBENCH_IMAGE", default="registry.local/workbench:latest")
K8S_NAMESPACE = env.str("K8S_NAMESPACE", default="")
K8S_STORAGE_CLASS = env.str("K8S_STORAGE_CLASS", default="")
K8S_OPENSHIFT = env.bool("K8S_OPENSHIFT", default=False)
K8S_IMAGE_PULL_POLICY = env.str("K8S_IMAGE_PULL_POLICY", default="IfNotPresent")
K8S_CONTROL_PLANE_SELECTOR = env.str("K8S_CONTROL_PLANE_SELECTOR", default="")
K8S_EGRESS_SELECTOR = env.str("K8S_EGRESS_SELECTOR", default="")
K8S_DNS_SELECTOR = env.str("K8S_DNS_SELECTOR", default="kube-system/k8s-app=kube-dns:53")
PROJECT_FOLDER = env.str("PROJECT_FOLDER", default="")
PROJECT_CLAIM = env.str("PROJECT_CLAIM", default="")
LOCAL_BWRAP = env.bool("LOCAL_BWRAP", default=False)
LOCAL_BWRAP_FOLDERS = env.list("LOCAL_BWRAP_FOLDERS", default=[])
LOCAL_BWRAP_ROOT = env.bool("LOCAL_BWRAP_ROOT", default=False)

# --- the way out (docs/egress.md) ----------------------------------------------------------------------------------
EGRESS_PROXY_URL = env.str("EGRESS_PROXY_URL", default="").rstrip("/")
EGRESS_TOKEN = env.str("EGRESS_TOKEN", default="")
EGRESS_TOKEN_FILE = env.str("EGRESS_TOKEN_FILE", default="")

# --- secrets (docs/secrets.md) -------------------------------------------------------------------------------------
SECRETS_FOLDER = env.str("SECRETS_FOLDER", default="").rstrip("/")
SECRETS_ENV_PREFIX = env.str("SECRETS_ENV_PREFIX", default="BERTH_SECRET_")
K8S_SECRETS_NAMESPACES = env.list("K8S_SECRETS_NAMESPACES", default=[])
BROKER_ALLOWED = [each.strip() for each in env.list("BROKER_ALLOWED", default=[]) if each.strip()]

# --- people --------------------------------------------------------------------------------------------------------
LOGIN_FAILURES = number("LOGIN_FAILURES", default=5)
LOGIN_LOCKOUT_SECONDS = number("LOGIN_LOCKOUT_SECONDS", default=15 * 60)
LOGIN_ATTEMPTS_PER_MINUTE = number("LOGIN_ATTEMPTS_PER_MINUTE", default=20)
REQUESTS_AT_ONCE = number("REQUESTS_AT_ONCE", default=2)
STREAMS_PER_PERSON = number("STREAMS_PER_PERSON", default=32)
STREAMS_PER_ADDRESS = number("STREAMS_PER_ADDRESS", default=128)
MFA = env.bool("MFA", default=False)
OIDC_URL = env.str("OIDC_URL", default="").rstrip("/")
OIDC_CLIENT_ID = env.str("OIDC_CLIENT_ID", default="")
OIDC_CLIENT_SECRET = env.str("OIDC_CLIENT_SECRET", default="")
OIDC_NAME = env.str("OIDC_NAME", default="single sign-on")

# --- limits --------------------------------------------------------------------------------------------------------
MAX_RUNS = number("MAX_RUNS", default=5)
MAX_RUNS_PER_GROUP = number("MAX_RUNS_PER_GROUP", default=1)
IDLE_SECONDS = number("IDLE_SECONDS", default=30 * 60)
DEADLINE_SECONDS = number("DEADLINE_SECONDS", default=4 * 3600)
START_SECONDS = number("START_SECONDS", default=5 * 60)
CLOSE_SECONDS = number("CLOSE_SECONDS", default=60)
TURN_SECONDS = number("TURN_SECONDS", default=30 * 60)
HEARTBEAT_SECONDS = number("HEARTBEAT_SECONDS", default=2 * 60)
RETRY_SECONDS = numbers("RETRY_SECONDS", default=[5, 10, 20, 40, 80])
RETENTION_DAYS = number("RETENTION_DAYS", default=90)
GROUP_GRACE_DAYS = number("GROUP_GRACE_DAYS", default=7)
MESSAGE_MAX_KIB = number("MESSAGE_MAX_KIB", default=256)
SCHEDULES_PER_GROUP = number("SCHEDULES_PER_GROUP", default=100)
GROUP_CPU_MILLIS = number("GROUP_CPU_MILLIS", default=16000)
GROUP_MEMORY_MIB = number("GROUP_MEMORY_MIB", default=32768)
GROUP_PODS = number("GROUP_PODS", default=50)
GROUP_STORAGE_GIB = number("GROUP_STORAGE_GIB", default=100)
DOOR_EVENTS_PER_SECOND = number("DOOR_EVENTS_PER_SECOND", default=5000)
DOOR_KIB_PER_SECOND = number("DOOR_KIB_PER_SECOND", default=4096)
RUN_EVENTS_MIB = number("RUN_EVENTS_MIB", default=1024)
GROUP_EVENTS_MIB = number("GROUP_EVENTS_MIB", default=50 * 1024)
MAX_CONNECTIONS = number("MAX_CONNECTIONS", default=4000)
CONNECTIONS_PER_ADDRESS = number("CONNECTIONS_PER_ADDRESS", default=500)
HEAD_SECONDS = number("HEAD_SECONDS", default=10)
BODY_SECONDS = number("BODY_SECONDS", default=20)

# --- data ----------------------------------------------------------------------------------------------------------
DATABASE_URL = env.str("DATABASE_URL", default="")
REDIS_URL = env.str("REDIS_URL", default="")
WORKERS = number("WORKERS", default=2)
DATABASE_POOL = number("DATABASE_POOL", default=10)

# A path is handed over as it is: in a URL it would have to be quoted.
EMBEDDED_DATABASE: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DATA_DIR / "berth.sqlite3")}
DATABASES: dict[str, dict[str, Any]] = {
    "default": env.db_url_config(DATABASE_URL) if DATABASE_URL else EMBEDDED_DATABASE
}
EMBEDDED = "sqlite" in DATABASES["default"]["ENGINE"]
if EMBEDDED:
    # WAL lets readers go on beside the one writer; IMMEDIATE makes a writer wait for its turn instead of failing when
    # its read turns into a write (https://www.sqlite.org/wal.html, https://www.sqlite.org/lang_transaction.html).
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    # A file, since the couriers' API and the pages read from several threads.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}
else:
    # Workers and commands keep a connection each; `web` shares a pool among its threads (controlplane/asgi.py).
    DATABASES["default"] |= {"CONN_MAX_AGE": 300, "CONN_HEALTH_CHECKS": True}

if REDIS_URL:
    # The layer waits up to 5 s in one blocking read, which is redis-py's own limit for an answer: give it more.
    REDIS_HOST = {"address": REDIS_URL, "socket_timeout": 15}
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # Who listens joins again and again (sessions/events/notify.py): a process that was killed is soon
            # forgotten.
            "CONFIG": {"hosts": [REDIS_HOST], "prefix": INSTALLATION, "group_expiry": 120},
        },
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

# A lost notification delays a page by one tick. The in-memory layer doesn't cross processes: there every one is lost.
STREAM_TICK_SECONDS = 5.0 if REDIS_URL else 0.25

# Tasks are short and every one may be lost or repeated: the watcher's sweep finds whatever is left undone. They come
# from a table of our own (sessions/work_queue.py), which sees to repeats and pauses. A worker takes few at a time, so
# that what comes first can still go first. No result is kept.
Q_CLUSTER = {
    "name": "berth",
    "orm": "default",
    "broker_class": "sessions.workers.task_broker.WorkQueueBroker",
    "workers": WORKERS,
    "queue_limit": WORKERS,
    "poll": 0.05,
    "timeout": 60,
    "retry": 120,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "catch_up": False,
    "recycle": 5000,
    "label": "Task queue",
}

# --- Django --------------------------------------------------------------------------------------------------------
ISOLATION = ["isolation"] if find_spec("isolation") else []  # an installation may leave it out
INSTALLED_APPS = [
    "daphne",
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.simple_history",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "ninja",
    "django_q",
    "simple_history",
    "axes",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.mfa",
    "groups",
    "sessions",
    "schedules",
    "egress_policy",
    "broker",
    *ISOLATION,
    "controlplane",
]
MIDDLEWARE = [
    "controlplane.problems.middleware",
    "django.middleware.security.SecurityMiddleware",
    "controlplane.addresses.middleware",
    "controlplane.csp.middleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "axes.middleware.AxesMiddleware",
    "controlplane.signin.ThrottledMiddleware",
]
ROOT_URLCONF = "controlplane.urls"
ASGI_APPLICATION = "controlplane.asgi.application"
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
            ]
        },
    }
]
PASSWORD_HASHERS = ["controlplane.hashing.LimitedPasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "admin:login"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
try:
    DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    STATIC_ROOT.mkdir(exist_ok=True)
except OSError as error:
    raise ImproperlyConfigured(
        f"DATA_DIR {DATA_DIR} can't be made ({error.strerror}). Set it to another folder."
    ) from None
STATICFILES_DIRS = [BASE_DIR / "static"]
# Files are served as they stand in static/, also without a collectstatic, so that a laptop needs no build step.
WHITENOISE_USE_FINDERS = True

# --- logging in (controlplane/signin.py, controlplane/accounts.py) -------------------------------------------------
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
# A name and an address together: by the name alone anybody could lock anybody out.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = LOGIN_FAILURES
AXES_COOLOFF_TIME = timedelta(seconds=LOGIN_LOCKOUT_SECONDS)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # who tries on during a lockout does not make it longer
AXES_RESET_ON_SUCCESS = True
AXES_CLIENT_IP_CALLABLE = "controlplane.signin.client_ip"
AXES_LOCKOUT_CALLABLE = "controlplane.signin.locked_out"
AXES_DISABLE_ACCESS_LOG = True  # the audit log has it
AXES_ENABLE_ADMIN = AXES_VERBOSE = False
SILENCED_SYSTEM_CHECKS = ["axes.W003"]

ACCOUNT_ADAPTER = "controlplane.accounts.Accounts"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SIGNUP_FIELDS = ["username*"]
ACCOUNT_LOGIN_METHODS = {"username"}
SOCIALACCOUNT_ADAPTER = "controlplane.accounts.SingleSignOn"
SOCIALACCOUNT_LOGIN_ON_GET = True  # a link: a form's policy (form-action) would not let the browser go to the provider
SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": []}}
if OIDC_URL:
    SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"] = [
        {
            "provider_id": "oidc",
            "name": OIDC_NAME,
            "client_id": OIDC_CLIENT_ID,
            "secret": OIDC_CLIENT_SECRET,
            "settings": {"server_url": OIDC_URL},
        }
    ]
MFA_ADAPTER = "controlplane.accounts.SecondFactor"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
# Attempts are counted here, one entry for an address: more of them than Django's 300 come from a few people's networks.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 20_000}},
}
if REDIS_URL:
    # Attempts are counted, and used second factors remembered, for all `web` together.
    REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"
    CACHES = {"default": {"BACKEND": REDIS_CACHE, "LOCATION": REDIS_URL, "KEY_PREFIX": INSTALLATION}}

# What a request to a page or the API may have as its body (controlplane/server.py): a message of MESSAGE_MAX_KIB with
# each of its characters escaped. It is in memory only when somebody reads it.
DATA_UPLOAD_MAX_MEMORY_SIZE = max(2_621_440, 8 * 1024 * MESSAGE_MAX_KIB)
FILE_UPLOAD_MAX_MEMORY_SIZE = 64 * 1024
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^agent/v1/", r"^healthz$", r"^readyz$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS

SIMPLE_HISTORY_REVERT_DISABLED = True


def menu_item(name: str, icon: str, model: str, needs: str = "") -> dict[str, Any]:
    """A line of the menu, for those who have the permission `needs`; "superuser" is one of superusers alone."""
    return {
        "title": name,
        "icon": icon,
        "link": reverse_lazy(f"admin:{model}_changelist"),
        "permission": lambda request: (
            request.user.is_superuser if needs == "superuser" else not needs or request.user.has_perm(needs)
        ),
    }


menu: dict[str, list[tuple[str, ...]]] = {  # a section's title → its lines
    "Work": [
        ("Sessions", "forum", "agent_sessions_agentsession"),
        ("Runs", "play_circle", "agent_sessions_run"),
        ("Tasks", "schedule", "schedules_scheduledtask"),
        ("Messages", "chat", "agent_sessions_message"),
        ("Events", "list", "agent_sessions_event"),
    ],
    "Tenants": [
        ("Groups", "groups", "groups_agentgroup"),
        ("Memberships", "badge", "groups_membership"),
        ("Profiles", "smart_toy", "groups_agentprofile", "groups.view_agentprofile"),
    ],
    "What they may use": [
        ("Mounts", "folder_shared", "groups_groupmount"),
        ("Mount roots", "hard_drive", "groups_mountroot", "groups.view_mountroot"),
        ("Secrets", "vpn_key", "groups_secretreference"),
        ("Brokered keys", "key_vertical", "groups_brokeredkey", "groups.view_brokeredkey"),
        ("Use of models", "query_stats", "groups_brokerusage"),
        ("Egress rules", "shield", "reach_egressrule"),
        ("Asked for", "contact_support", "reach_egressrequest"),
    ],
    "People": [
        ("Users", "person", "auth_user", "auth.view_user"),
        ("Operators", "shield_person", "groups_operatorscope", "superuser"),
        ("API tokens", "key", "groups_apitoken"),
    ],
    "Operations": [
        ("Limits", "tune", "groups_limits", "groups.view_limits"),
        *(("Proofs of isolation", "verified_user", f"{app}_proof", f"{app}.view_proof") for app in ISOLATION),
        ("Audit log", "fact_check", "groups_auditentry", "groups.view_auditentry"),
    ],
}
UNFOLD = {
    "COLORS": lambda _: {},  # a style in the page, which its policy forbids: they are in colours.css
    "STYLES": [lambda request: static("berth/colours.css")],
    "SCRIPTS": [lambda request: static("berth/strict.js")],
    "SITE_TITLE": "Berth",
    "SITE_HEADER": "Berth",
    "SITE_SYMBOL": "anchor",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "/favicon.ico"}],
    "SHOW_HISTORY": True,
    "SIDEBAR": {
        "navigation": [
            {
                "title": title,
                "separator": True,
                "items": [menu_item(*item) for item in items],
            }
            for title, items in menu.items()
        ]
    },
}
if MFA:
    UNFOLD["ACCOUNT"] = {"navigation": [{"title": "Second factor", "link": reverse_lazy("mfa_index")}]}
FORMAT_MODULE_PATH = ["controlplane.formats"]

LOGGING_CONFIG = None  # controlplane.logs sets structlog up
