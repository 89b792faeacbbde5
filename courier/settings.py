"""The courier's environment variables (docs/courier-protocol.md): the one place that reads them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Settings(NamedTuple):
    """The environment of one courier. Folders are absolute; `drain_seconds` bounds the upload after the end."""

    url: str
    run: str
    token_file: Path
    contract: str
    pipes: Path
    journals: Path
    journal_max: int  # bytes
    ipc: Path | None
    secrets: Path | None
    resume: str
    group: str
    session: str
    main: bool = False  # the group is the installation's main group
    drain_seconds: float = 45.0
    exit_when_done: bool = False

    @property
    def folder(self) -> Path:
        """The run's own journal folder."""
        return self.journals / self.run


def read_settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in `env`. Raises KeyError that names a missing variable, ValueError for a wrong number."""

    def folder(name: str) -> Path | None:
        return Path(env[name]) if env.get(name) else None

    return Settings(
        url=env["BERTH_URL"],
        run=env["BERTH_RUN"],
        token_file=Path(env["BERTH_TOKEN_FILE"]),
        contract=env["BERTH_CONTRACT"],
        pipes=Path(env["BERTH_PIPES"]),
        journals=Path(env["BERTH_JOURNAL"]),
        journal_max=int(float(env.get("BERTH_JOURNAL_MAX_MIB") or 512) * 1024 * 1024),
        ipc=folder("BERTH_IPC"),
        secrets=folder("BERTH_SECRETS"),
        resume=env.get("BERTH_RESUME", ""),
        group=env.get("BERTH_GROUP", ""),
        session=env.get("BERTH_SESSION", ""),
        main=env.get("BERTH_MAIN") == "1",
    )
