"""What every runtime derives from a spec: names, the hash by which a run is known again, a home, a proxy address."""

import hashlib
import json
import re
from dataclasses import MISSING, asdict, fields, replace
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from runtimes.base import EgressAccess, RunSpec

HOME = "/home/agent"  # unless the state folder lies in another home
# A name of an object must be a DNS-1123 label: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
MAX_LABEL = 63


def dns_label(text: str) -> str:
    """Return `text` as a valid DNS-1123 label: as it is if it is one, else cleaned and made unique by a hash of it."""
    clean = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if clean == text and len(clean) <= MAX_LABEL:
        return clean
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{clean[: MAX_LABEL - 9].rstrip('-')}-{digest}"


def spec_hash(spec: RunSpec) -> str:
    """Return 32 hex digits that are equal for equal specs.

    Fields at their default are left out, so that a later version of Berth, with more fields, still knows its runs; so
    is what may change while a run lives: the group's quota, and credentials, which a new SECRET_KEY changes.
    """
    secrets = tuple(replace(secret, value="") for secret in spec.secrets)
    return _hash(replace(spec, token="", secrets=secrets, egress=spec.egress and replace(spec.egress, credential="")))


def matches_hash(spec: RunSpec, digest: str | None) -> bool:
    """Whether a hash is the spec's, or what it was when credentials counted: an upgrade ends no run."""
    return digest in (spec_hash(spec), _hash(spec))


def _hash(spec: RunSpec) -> str:
    values = asdict(spec)
    for secret in values["secrets"]:
        if not secret["value"]:  # as it was before there were any
            del secret["value"]
    del values["quota"]
    for field in fields(spec):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in values and default is not MISSING and getattr(spec, field.name) == default:
            del values[field.name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def home_of(state_folder: str) -> str:
    """The agent's home: the one its state folder lies in (/home/node for /home/node/.claude), else one of Berth's."""
    parts = PurePosixPath(state_folder).parts
    return "/".join(("", *parts[1:3])) if parts[:2] == ("/", "home") and len(parts) > 2 else HOME


def proxy_url(run: str, egress: EgressAccess) -> str:
    """The egress proxy's address with the run's credential, as programs take it from HTTPS_PROXY."""
    parts = urlsplit(egress.proxy)
    return f"{parts.scheme}://{quote(run, safe='')}:{quote(egress.credential, safe='')}@{parts.netloc}"
