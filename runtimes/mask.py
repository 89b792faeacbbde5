"""What looks like a secret, in a description of what was started."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "********"
# A name that says that the value is a secret; one that says that it is only the way to it.
SECRET_NAME = re.compile(
    r"secret|token|passw|passphrase|credential|authorization|private|signature|api_?key|access_?key|(^|_)(key|auth|pat|dsn)($|_)",
    re.IGNORECASE,
)
PLACE_NAME = re.compile(r"_(file|path|dir|folder)$|^berth_secrets$", re.IGNORECASE)
# A command's `--api-key=value`, or `API_KEY=value` before it.
OPTION = re.compile(r"(?P<name>[\w-]+)=.+", re.DOTALL)
# The person and password of an address: RFC 3986, section 3.2.1.
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def mask(value: Any) -> Any:
    """A copy of JSON in which what looks like a secret is written as asterisks.

    Looks at the names of environment variables and of a command's options, and at passwords in addresses. References
    to secrets stay: they hold no value.
    """
    if isinstance(value, Mapping):
        if set(value) == {"name", "value"}:  # an environment variable of a container
            return {"name": value["name"], "value": _masked(str(value["name"]), value["value"])}
        environment = value.get("environment")  # of a RunSpec
        whole = {key: mask(each) for key, each in value.items()}
        if isinstance(environment, Mapping):
            whole["environment"] = {name: _masked(name, each) for name, each in environment.items()}
        return whole
    if isinstance(value, list | tuple):
        options = ["", *(each if isinstance(each, str) and each.startswith("-") else "" for each in value)]
        return [_masked(before, each) for before, each in zip(options, value, strict=False)]
    if not isinstance(value, str):
        return value
    if (option := OPTION.fullmatch(value)) and _tells(option["name"]):
        return f"{option['name']}={MASK}"
    return mask_user_info(value)


def mask_user_info(text: str) -> str:
    """The text with the person and password of each address in it written as asterisks."""
    return USER_INFO.sub(f"{MASK}@", text)


def _masked(name: str, value: Any) -> Any:
    """The value of a variable or option of this name."""
    return MASK if isinstance(value, str) and value and _tells(name) else mask(value)


def _tells(name: str) -> bool:
    """Whether a value of this name is a secret."""
    plain = name.lstrip("-").replace("-", "_")
    return bool(SECRET_NAME.search(plain)) and not PLACE_NAME.search(plain)
