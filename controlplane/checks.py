"""System checks: what is wrong with a setting, said before anything starts, with what to do about it."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured


def secret_key(**_: Any) -> list[CheckMessage]:
    """berth.E001: signing cookies and the couriers' tokens needs a key."""
    try:
        bool(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django does not hand out an empty one
        hint = "Run `make setup`, which writes one to .env, or set SECRET_KEY to 50 random characters."
        return [Error("SECRET_KEY is empty.", hint=hint, id="berth.E001")]
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


def limits(**_: Any) -> list[CheckMessage]:
    """berth.E006: limits and times are positive."""
    names = ["MAX_RUNS", "MAX_RUNS_PER_GROUP", "IDLE_SECONDS", "DEADLINE_SECONDS", "START_SECONDS"]
    names += ["TURN_SECONDS", "HEARTBEAT_SECONDS", "MESSAGE_MAX_KIB", "SCHEDULES_PER_GROUP", "WORKERS", "DATABASE_POOL"]
    hint = "Use a whole number of at least 1."
    return [
        Error(f"{name} is {getattr(settings, name)}.", hint=hint, id="berth.E006")
        for name in names
        if getattr(settings, name) < 1
    ]


def data_dir(**_: Any) -> list[CheckMessage]:
    """berth.E007: the data folder can be written."""
    folder = next(path for path in (settings.DATA_DIR, *settings.DATA_DIR.parents) if path.exists())
    if os.access(folder, os.W_OK):
        return []
    hint = "Set DATA_DIR to a folder that this user may write."
    return [Error(f"DATA_DIR {settings.DATA_DIR} can't be written.", hint=hint, id="berth.E007")]


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
    for check in (secret_key, runtime, courier_url, limits, data_dir, log_format):
        register(check, Tags.compatibility)
    register(embedded_on_a_cluster, Tags.compatibility, deploy=True)
