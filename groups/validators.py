"""What a profile's fields may hold: judged where they are typed, so that a start never meets a surprise."""

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

# A slug becomes part of a namespace's name: an RFC 1123 label, with room for the prefix `berth-` within 63 characters
# (https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names).
validate_group_slug = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
    "Use 1 to 40 lower-case letters, digits and hyphens, with a letter or digit at both ends.",
)
validate_state_folder = RegexValidator(
    r"^/[A-Za-z0-9._/-]+$", "Use an absolute path inside the container, such as /home/node/.claude."
)
SECRET_NAME = re.compile(r"^[A-Za-z0-9._-]{1,100}$")
SECRET_SOURCE = re.compile(r"^(kubernetes:[a-z0-9.-]+/[A-Za-z0-9._-]+|file:/.+|env:[A-Za-z_][A-Za-z0-9_]*)$")
VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
LOOKS_SECRET = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)


def validate_command(value: Any) -> None:
    """A command is a list of words, the first of which is the program."""
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value) or not value[0]:
        raise ValidationError('Use a JSON list of words, such as ["python3", "agent.py"].')


def validate_environment(value: Any) -> None:
    """An environment maps names to text, and holds no secret: those are given by reference."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValidationError('Use a JSON object of names and texts, such as {"LANG": "C.UTF-8"}.')
    for name in value:
        if not VARIABLE.match(name) or name.startswith("BERTH_"):
            raise ValidationError(f"{name!r} can't be a variable's name here: letters, digits and _; not BERTH_….")
        if LOOKS_SECRET.search(name):
            raise ValidationError(
                f"{name} looks like a secret. Give it as a reference under “secrets”, never by value."
            )


def validate_secrets(value: Any) -> None:
    """Secrets are references: a file name under /var/secrets, and where its value comes from."""
    if not isinstance(value, dict):
        raise ValidationError('Use a JSON object such as {"anthropic-api-key": "kubernetes:model-key/api-key"}.')
    for name, source in value.items():
        if not SECRET_NAME.match(name) or name in (".", ".."):
            raise ValidationError(f"{name!r} can't be a file's name under /var/secrets.")
        if not isinstance(source, str) or not SECRET_SOURCE.match(source):
            raise ValidationError(f"{name}: use kubernetes:SECRET/KEY, file:/PATH or env:NAME as its source.")
