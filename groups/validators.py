"""What a profile's fields may hold: judged where they are typed, so that a start never meets a surprise."""

import re
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from groups import times
from groups.choices import MountKind
from groups.texts import storable_data

# A slug becomes part of a namespace's name: an RFC 1123 label, with room for the prefix `berth-` within 63 characters
# (https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names).
validate_group_slug = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
    "Use 1 to 40 lower-case letters, digits and hyphens, with a letter or digit at both ends.",
)
validate_state_folder = RegexValidator(
    r"^/[A-Za-z0-9._/-]+$", "Use an absolute path inside the container, such as /home/node/.claude."
)
SECRET_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
SECRET_REFERENCE = re.compile(r"^ref:[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
CLAIM = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
# A host name or IPv4 address, which is what Kubernetes takes, and an absolute path.
EXPORT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.-]*:/[^\s:]*\Z")
VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\Z")
# Linux executes nothing with a longer argument or NAME=VALUE, its NUL included (MAX_ARG_STRLEN, execve(2)). Of all
# together it takes 2 MiB most often; a pod, of which they are a part, has to fit into a request of etcd (1.5 MiB).
ARGUMENT_MAX, ARGUMENTS_MAX = 128 * 1024 - 1, 512 * 1024
LOOKS_SECRET = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)


def validate_storable(value: Any) -> None:
    """JSON that can be kept and handed on: PostgreSQL and a program's environment know no NUL, UTF-8 no surrogates."""
    if storable_data(value) != value:
        raise ValidationError("Leave out NUL (\\u0000) and halves of characters (\\ud800 to \\udfff).")


def validate_command(value: Any) -> None:
    """A command is a list of words, the first of which is the program."""
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value) or not value[0]:
        raise ValidationError('Use a JSON list of words, such as ["python3", "agent.py"].')
    if problem := exec_problem(value):
        raise ValidationError(problem)


def exec_problem(texts: Iterable[str]) -> str:
    """Why a program can't be started with these words or NAME=VALUE texts; empty if it can.

    What the kernel or the API server would refuse at every start is better said once, in the form.
    """
    total = 0
    for text in texts:
        if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
            return f"{text[:40]!r} has a NUL or half a character in it, which no program can be handed."
        size = len(text.encode())
        total += size
        if size > ARGUMENT_MAX:
            return f"{text[:40]!r}… has {size} bytes; one text may have {ARGUMENT_MAX}. Put it into a file."
    return f"{total} bytes in all; {ARGUMENTS_MAX} may be. Put them into a file." if total > ARGUMENTS_MAX else ""


def validate_environment(value: Any) -> None:
    """An environment maps names to text, and holds no secret: those are given by reference."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValidationError('Use a JSON object of names and texts, such as {"LANG": "C.UTF-8"}.')
    validate_storable(value)
    try:
        times.clock(value.get("TZ", ""))  # scheduled tasks are read by it too
    except ValueError as error:
        raise ValidationError(f"TZ: {error}") from None
    for name in value:
        if not VARIABLE.match(name) or name.startswith("BERTH_"):
            raise ValidationError(f"{name!r} can't be a variable's name here: letters, digits and _; not BERTH_….")
        if LOOKS_SECRET.search(name):
            raise ValidationError(
                f"{name} looks like a secret. Give it as a reference under “secrets”, never by value."
            )
    if problem := exec_problem(f"{name}={text}" for name, text in value.items()):
        raise ValidationError(problem)


def state_folder_problem(path: str) -> str:
    """What is wrong with a state folder that `validate_state_folder` lets pass, in words; empty if nothing is."""
    odd = path.endswith("\n") or {".", ".."} & set(path.split("/"))
    return "Use a path without . and .., such as /home/node/.claude." if odd else ""


def validate_secrets(value: Any) -> None:
    """Secrets are references: a file name under /var/secrets, and the name of a secret that operators keep."""
    if not isinstance(value, dict):
        raise ValidationError('Use a JSON object such as {"anthropic-api-key": "ref:model-key"}.')
    for name, source in value.items():
        if not SECRET_NAME.match(name) or name.startswith("."):
            raise ValidationError(f"{name!r} can't be a file's name under /var/secrets.")
        if not isinstance(source, str) or not SECRET_REFERENCE.match(source):
            words = f"{name}: use ref:NAME, the name of a secret that is granted to this profile. "
            raise ValidationError(f"{words}Where its value comes from is said there, no longer in the profile.")


def validate_names(value: Any) -> None:
    """A list of names of folders and files."""
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise ValidationError('Use a JSON list of names, such as ["payroll", "keys"].')
    validate_storable(value)
    if any("/" in name for name in value):
        raise ValidationError("A blocked name is one part of a path: leave slashes out.")


def place_problem(kind: MountKind, place: str) -> str:
    """What is wrong with the place of a mount root of this kind, in words; empty if nothing is."""
    match kind:
        case MountKind.CLAIM:
            return "" if CLAIM.match(place) else "Use the name of a PersistentVolumeClaim, such as team-data."
        case MountKind.NFS:
            return "" if EXPORT.match(place) and ".." not in place.split("/") else "Use SERVER:/EXPORT."
        case MountKind.FOLDER:
            absolute = place.startswith("/") and place.strip("/") and ".." not in place.split("/")
            return "" if absolute else "Use the absolute path of a folder, such as /srv/data; not / itself."
