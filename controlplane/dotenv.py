"""The `.env` of a new installation: keys that every installation needs and none may share."""

import secrets
from pathlib import Path

HEAD = "# Made by `make setup`. Settings are explained in docs/settings.md. Keep this file private.\n"


def complete(path: Path) -> list[str]:
    """Add the keys that are missing from `path`, and leave what is there; return their names.

    The file is for its owner alone before a key is written to it, whoever could read it until then.
    """
    text = path.read_text() if path.exists() else HEAD
    present = {line.partition("=")[0].strip() for line in text.splitlines()}
    made = {"SECRET_KEY": secrets.token_urlsafe(50), "ADMIN_PASSWORD": secrets.token_urlsafe(12)}
    added = {name: value for name, value in made.items() if name not in present}
    if added:
        if not text.endswith("\n"):
            text += "\n"
        path.touch(mode=0o600)
        path.chmod(path.stat().st_mode & 0o700)
        path.write_text(text + "".join(f"{name}={value}\n" for name, value in added.items()))
    return list(added)
