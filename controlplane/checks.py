"""System checks: what is wrong with a setting, said before anything starts, with what to do about it."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from broker import allowlist
from controlplane import datafolder
from k8s_adapter.config import pod_selector
from runtimes.local import bwrap as confining

MOST_DAYS = 36500  # a hundred years


def secret_key(**_: Any) -> list[CheckMessage]:
    """berth.E001: signing cookies and the couriers' tokens needs a key. berth.E023: an old one is another one."""
    try:
        bool(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django does not hand out an empty one
        hint = "Run `make setup`, which writes one to .env, or set SECRET_KEY to 50 random characters."
        return [Error("SECRET_KEY is empty.", hint=hint, id="berth.E001")]
    if settings.SECRET_KEY in settings.SECRET_KEY_FALLBACKS:
        hint = "Give SECRET_KEY a new value, and SECRET_KEY_FALLBACKS the one that it had before."
        return [Error("SECRET_KEY is among SECRET_KEY_FALLBACKS.", hint=hint, id="berth.E023")]
    return []


def runtime(**_: Any) -> list[CheckMessage]:
    """berth.E002: RUNTIME names a runtime. berth.E003: a cluster is configured if it has to be."""
    if settings.RUNTIME not in ("local", "kubernetes"):
        return [Error(f"RUNTIME is {settings.RUNTIME!r}.", hint="Use local or kubernetes.", id="berth.E002")]
    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ
    kubeconfig = os.environ.get("KUBECONFIG", str(Path.home() / ".kube" / "config"))
    if settings.RUNTIME == "kubernetes" and not in_cluster and not Path(kubeconfig.split(os.pathsep)[0]).exists():
        hint = "Set KUBECONFIG to a kubeconfig file, or use RUNTIME=local."
        return [Error(f"RUNTIME is kubernetes, but there is no {kubeconfig}.", hint=hint, id="berth.E003")]
    return []


def courier_url(**_: Any) -> list[CheckMessage]:
    """berth.E004: couriers can call home. berth.W005: pods can't reach a loopback address."""
    url = urlsplit(settings.COURIER_URL)
    if url.scheme not in ("http", "https") or not url.hostname:
        hint = "Set it to the address at which couriers reach `web`, such as http://berth.internal:8000."
        return [Error(f"COURIER_URL is {settings.COURIER_URL!r}.", hint=hint, id="berth.E004")]
    if settings.RUNTIME == "kubernetes" and url.hostname in ("127.0.0.1", "localhost", "::1"):
        hint = "Set COURIER_URL to an address of this machine or Service that pods can reach."
        return [Warning("COURIER_URL is a loopback address, which pods can't reach.", hint=hint, id="berth.W005")]
    return []


def selectors(**_: Any) -> list[CheckMessage]:
    """berth.E030: selectors of pods can be read. berth.W031: a Service needs one, since policies see its pods alone."""
    found: list[CheckMessage] = []
    for name in ("K8S_CONTROL_PLANE_SELECTOR", "K8S_EGRESS_SELECTOR", "K8S_DNS_SELECTOR"):
        try:
            pod_selector(getattr(settings, name))
        except ValueError as error:
            hint = "The port is the pods' own, which is not always their Service's."
            found.append(Error(f"{name}: {error}.", hint=hint, id="berth.E030"))
    pairs = {"COURIER_URL": "K8S_CONTROL_PLANE_SELECTOR", "EGRESS_PROXY_URL": "K8S_EGRESS_SELECTOR"}
    for url, name in pairs.items() if settings.RUNTIME == "kubernetes" else ():
        host = urlsplit(getattr(settings, url)).hostname or ""
        if host.endswith((".svc", ".svc.cluster.local")) and not getattr(settings, name):
            hint = f"Set {name} to the pods behind it, such as berth/app=web:8000."
            words = f"{url} is a Service, to which no NetworkPolicy can open the way."
            found.append(Warning(words, hint=hint, id="berth.W031"))
    return found


# The control plane's own secrets in its environment, which no agent's secret may be read from.
OWN_SECRETS = (
    "SECRET_KEY", "SECRET_KEY_FALLBACKS", "DATABASE_URL", "REDIS_URL", "ADMIN_PASSWORD", "EGRESS_TOKEN",
    "OIDC_CLIENT_SECRET",
)  # fmt: skip


def secrets_sources(**_: Any) -> list[CheckMessage]:
    """berth.E020: agents' secrets can't be read from where the control plane keeps its own."""
    prefix, folder = settings.SECRETS_ENV_PREFIX, settings.SECRETS_FOLDER
    found: list[CheckMessage] = []
    if not prefix or any(name.startswith(prefix) for name in OWN_SECRETS):
        hint = "Use a prefix that no variable of the control plane's own has, such as BERTH_SECRET_."
        found.append(Error(f"SECRETS_ENV_PREFIX is {prefix!r}.", hint=hint, id="berth.E020"))
    if folder and (not Path(folder).is_absolute() or not Path(folder).is_dir()):
        hint = "Use the absolute path of a folder that holds secrets for agents and nothing else, or leave it empty."
        found.append(Error(f"SECRETS_FOLDER {folder} is no such folder.", hint=hint, id="berth.E020"))
    return found


def broker_allowed(**_: Any) -> list[CheckMessage]:
    """berth.E022: what operators let pass the credential broker is spelled as its refusals name it."""
    if not (wrong := allowlist.invalid_entries(settings.BROKER_ALLOWED)):
        return []
    hint = f"Use KIND:NAME, such as tool:web_search_20250305; kinds are {', '.join(allowlist.KINDS)}."
    return [Error(f"BROKER_ALLOWED has {', '.join(map(repr, wrong))}.", hint=hint, id="berth.E022")]


def project(**_: Any) -> list[CheckMessage]:
    """berth.E021: the main group's project folder is there, where this machine can know it."""
    folder = settings.PROJECT_FOLDER
    if settings.RUNTIME != "local" or not folder or (Path(folder).is_absolute() and Path(folder).is_dir()):
        return []
    hint = "Use the absolute path of a folder, or leave it empty."
    return [Error(f"PROJECT_FOLDER {folder} is no such folder.", hint=hint, id="berth.E021")]


TOKEN_LENGTH = 32  # characters of a token that guards every decision about the way out


def egress(**_: Any) -> list[CheckMessage]:
    """berth.E010: the proxies' token. berth.E011: the proxy's address. berth.W012: a proxy that nobody would answer."""
    found: list[CheckMessage] = []
    token, file, url = settings.EGRESS_TOKEN, settings.EGRESS_TOKEN_FILE, settings.EGRESS_PROXY_URL
    hint = "`openssl rand -hex 32` makes one. Give it as EGRESS_TOKEN, or in a file that EGRESS_TOKEN_FILE names."
    if token and file:
        found.append(Error("EGRESS_TOKEN and EGRESS_TOKEN_FILE are both set.", hint="Set one.", id="berth.E010"))
    elif file and not os.access(file, os.R_OK):
        found.append(Error(f"EGRESS_TOKEN_FILE {file} can't be read.", hint=hint, id="berth.E010"))
    elif (token or file) and len(token or Path(file).read_text().strip()) < TOKEN_LENGTH:
        words = f"The egress proxies' token is shorter than {TOKEN_LENGTH} characters."
        found.append(Error(words, hint=hint, id="berth.E010"))
    parts = urlsplit(url)
    if url and (parts.scheme != "http" or not parts.hostname or parts.path or parts.username):
        hint = "Set it to where agents reach the egress proxy, such as http://berth-egress.berth.svc:3128."
        found.append(Error(f"EGRESS_PROXY_URL is {url!r}.", hint=hint, id="berth.E011"))
    if url and not token and not file:
        words = "There is an egress proxy, but no token for it: it gets no answer, and lets nobody out."
        found.append(Warning(words, hint=hint, id="berth.W012"))
    return found


def sandbox(**_: Any) -> list[CheckMessage]:
    """berth.E013: what is to confine local agents is there, and can do so."""
    words = (
        confining.unusable_reason(settings.LOCAL_BWRAP_ROOT)
        if settings.LOCAL_BWRAP and settings.RUNTIME == "local"
        else ""
    )
    hint = "See docs/egress-rules.md. Or set LOCAL_BWRAP=false, and let nobody run what they don't trust."
    return [Error(f"LOCAL_BWRAP is set, but {words}.", hint=hint, id="berth.E013")] if words else []


def sandbox_folders(**_: Any) -> list[CheckMessage]:
    """berth.E013: what is to be shown in the sandbox is there, and is not everything."""
    hint = "List absolute paths of folders with programs, separated by commas, such as /opt/node."
    return [
        Error(f"LOCAL_BWRAP_FOLDERS: {folder!r} is no such folder.", hint=hint, id="berth.E013")
        for folder in settings.LOCAL_BWRAP_FOLDERS
        if not Path(folder).is_absolute() or not Path(folder).exists() or Path(folder).resolve() == Path("/")
    ]


def limits(**_: Any) -> list[CheckMessage]:
    """berth.E006: limits and times are positive, and no time is beyond what can be told."""
    names = ["MAX_RUNS", "MAX_RUNS_PER_GROUP", "IDLE_SECONDS", "DEADLINE_SECONDS", "START_SECONDS"]
    names += [
        "TURN_SECONDS",
        "CLOSE_SECONDS",
        "HEARTBEAT_SECONDS",
        "MESSAGE_MAX_KIB",
        "SCHEDULES_PER_GROUP",
        "WORKERS",
        "DATABASE_POOL",
    ]
    names += ["GROUP_CPU_MILLIS", "GROUP_MEMORY_MIB", "GROUP_PODS", "GROUP_STORAGE_GIB"]
    names += ["LOGIN_FAILURES", "LOGIN_LOCKOUT_SECONDS", "LOGIN_ATTEMPTS_PER_MINUTE"]
    names += ["REQUESTS_AT_ONCE", "STREAMS_PER_PERSON", "STREAMS_PER_ADDRESS"]
    names += ["DOOR_EVENTS_PER_SECOND", "DOOR_KIB_PER_SECOND"]
    names += ["RUN_EVENTS_MIB", "GROUP_EVENTS_MIB"]
    names += ["MAX_CONNECTIONS", "CONNECTIONS_PER_ADDRESS", "HEAD_SECONDS", "BODY_SECONDS"]
    hint = "Use a whole number of at least 1."
    found: list[CheckMessage] = [
        Error(f"{name} is {getattr(settings, name)}.", hint=hint, id="berth.E006")
        for name in names
        if getattr(settings, name) < 1
    ]
    hint = f"Use a number of days from 0 to {MOST_DAYS}: a time has to be told from it."
    return found + [
        Error(f"{name} is {getattr(settings, name)}.", hint=hint, id="berth.E006")
        for name in ("RETENTION_DAYS", "GROUP_GRACE_DAYS")
        if not 0 <= getattr(settings, name) <= MOST_DAYS
    ]


def single_sign_on(**_: Any) -> list[CheckMessage]:
    """berth.E040: single sign-on has all that it needs. berth.E041, W042: the proxies in front are known."""
    found: list[CheckMessage] = []
    if settings.OIDC_URL or settings.OIDC_CLIENT_ID or settings.OIDC_CLIENT_SECRET:
        unset = [name for name in ("OIDC_URL", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET") if not getattr(settings, name)]
        if unset:
            hint = "Single sign-on needs all three; leave all empty to do without."
            found.append(Error(f"{' and '.join(unset)} not set.", hint=hint, id="berth.E040"))
        url = urlsplit(settings.OIDC_URL)
        if settings.OIDC_URL and url.scheme != "https" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
            hint = "Use the provider's https address: who can read or change what it says can be anybody here."
            found.append(Error(f"OIDC_URL is {settings.OIDC_URL!r}.", hint=hint, id="berth.E040"))
    if settings.PROXIES < 0:
        hint = "Say how many proxies stand in front of `web`; 0 for none."
        found.append(Error(f"PROXIES is {settings.PROXIES}.", hint=hint, id="berth.E041"))
    for network in settings.PROXY_NETWORKS:
        try:
            ip_network(network)
        except ValueError as error:
            hint = "List networks such as 10.1.2.0/24, separated by commas."
            found.append(Error(f"PROXY_NETWORKS: {error}.", hint=hint, id="berth.E041"))
    if settings.PROXIES > 0 and not settings.PROXY_NETWORKS and settings.RUNTIME == "kubernetes":
        hint = "Set PROXY_NETWORKS to where your proxies are: a pod that calls `web` itself could claim any address."
        found.append(Warning("X-Forwarded-For is believed from anybody.", hint=hint, id="berth.W042"))
    return found


def data_dir(**_: Any) -> list[CheckMessage]:
    """berth.E007: the data folder can be written."""
    folder = next(path for path in (settings.DATA_DIR, *settings.DATA_DIR.parents) if path.exists())
    if os.access(folder, os.W_OK):
        return []
    hint = "Set DATA_DIR to a folder that this user may write."
    return [Error(f"DATA_DIR {settings.DATA_DIR} can't be written.", hint=hint, id="berth.E007")]


def private(**_: Any) -> list[CheckMessage]:
    """berth.W014: with the local runtime nobody else of the machine reads conversations and keys, or places a task."""
    if settings.RUNTIME != "local":
        return []
    hint = "Run `manage.py make_env`, which takes the rights of others away; as another user's, chmod go= it."
    return [
        Warning(f"{path} can be read by others of this machine.", hint=hint, id="berth.W014")
        for path in datafolder.exposed(settings.DATA_DIR, settings.BASE_DIR / ".env")
    ]


def embedded_on_a_cluster(**_: Any) -> list[CheckMessage]:
    """berth.W008: production wants PostgreSQL and Redis."""
    if settings.RUNTIME != "kubernetes" or (not settings.EMBEDDED and settings.REDIS_URL):
        return []
    hint = "Set DATABASE_URL to PostgreSQL and REDIS_URL to Redis when more than one person depends on it."
    return [Warning("Runs go to a cluster, but data is in SQLite or there is no Redis.", hint=hint, id="berth.W008")]


def log_format(**_: Any) -> list[CheckMessage]:
    """berth.E009: LOG_FORMAT is one that exists."""
    if settings.LOG_FORMAT in ("text", "json"):
        return []
    return [Error(f"LOG_FORMAT is {settings.LOG_FORMAT!r}.", hint="Use text or json.", id="berth.E009")]


def register_all() -> None:
    """Make Django run these with `manage.py check` and before every command."""
    for check in (
        secret_key,
        runtime,
        courier_url,
        selectors,
        secrets_sources,
        broker_allowed,
        project,
        limits,
        single_sign_on,
        egress,
        sandbox,
        sandbox_folders,
        data_dir,
        private,
        log_format,
    ):
        register(check, Tags.compatibility)
    register(embedded_on_a_cluster, Tags.compatibility, deploy=True)
