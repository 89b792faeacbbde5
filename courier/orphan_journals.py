"""Journals that other runs of the group left on the volume: whoever comes next uploads them.

One that can't be read becomes a `gap` in its run's session, once, and is set aside: nobody reads it again.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

from courier.client import Client, RunOver, Stopped, StopSignal
from courier.events import Event
from courier.journal import ASIDE, segments, set_aside
from courier.journal_lock import remove_folder, try_lock
from courier.log import log
from courier.settings import Settings
from courier.transcript import Transcript
from courier.uploader import Uploader

ABANDONED_AFTER = 600.0  # seconds after which a courier will not come back: a kubelet's longest pause is 300
ASIDE_SECONDS = 7 * 24 * 3600.0  # seconds for which what was set aside stays on the volume, for a person who looks
REFUSED = (403, 404)


class ReleaseSignal(NamedTuple):
    """Set when the courier ends, or when the folder's own courier is back and wants it."""

    stop: StopSignal
    folder: Path

    def is_set(self) -> bool:
        """Tell whether to let go of the folder."""
        return self.stop.is_set() or (self.folder / "wanted").exists()

    def wait(self, timeout: float) -> bool:
        """Wait until the courier ends, at most `timeout` seconds."""
        return self.stop.wait(timeout)


def upload_orphan_journals(settings: Settings, stop: StopSignal) -> None:
    """Upload what other runs left and no living courier has locked, then delete it. Raises RunOver if this run is over.

    The newest comes first, since messages wait for it: it is most likely that of the session's last run.
    """
    client = Client(settings.url, settings.token_file)
    for folder in sorted(settings.journals.iterdir(), key=_changed_at, reverse=True):
        if folder.name == settings.run or not folder.is_dir() or stop.is_set():
            continue
        try:
            lock = try_lock(folder)
            if lock is not None:
                try:
                    _upload_or_set_aside(folder, settings, client, ReleaseSignal(stop, folder))
                finally:
                    os.close(lock)
        except Stopped:
            continue
        except OSError as error:  # not readable for this one; the next one may fare better
            log("leftover unreadable", leftover=folder.name, problem=repr(error))


def _upload_or_set_aside(folder: Path, settings: Settings, client: Client, release: ReleaseSignal) -> None:
    try:
        _upload(folder, settings, client, release)
    except (RunOver, Stopped, OSError):
        raise
    except Exception as error:
        log("leftover set aside", leftover=folder.name, problem=type(error).__name__)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        reason = "the journal that this run left can't be read"
        uploader = Uploader(client, folder, folder.name, release)
        uploader.post_event(Event("gap", reason, {"events": 0, "bytes": size}), REFUSED)
        set_aside(folder)


def _upload(folder: Path, settings: Settings, client: Client, release: ReleaseSignal) -> None:
    """Upload one folder. It stays, nearly empty, if its courier may come back, or the control plane refuses it now."""
    age = time.time() - _changed_at(folder)
    if not segments(folder):
        if age > ABANDONED_AFTER:
            remove_folder(folder, *([f"{ASIDE}*"] if age > ASIDE_SECONDS else []))
        return
    transcript = Transcript(folder, settings)
    over = transcript.code is not None or age > ABANDONED_AFTER
    try:
        while transcript.step(final=True):
            pass
        uploader = Uploader(client, folder, folder.name, release)
        try:
            while response := uploader.step(accept=REFUSED):
                if response.status in REFUSED:
                    log("leftover refused", leftover=folder.name, status=response.status)
                    return
                transcript.journal.forget(uploader.stored)
        except RunOver:
            uploader.hello()  # raises RunOver again if this run is over, and not the one that left the folder
            over = True
    finally:
        transcript.close()
    log("leftover shipped", leftover=folder.name, last=transcript.journal.last)
    if over:
        remove_folder(folder)


def _changed_at(folder: Path) -> float:
    """When something was last added to a folder, seconds since the epoch; now, if it can't be told."""
    try:
        return max(path.stat().st_mtime for path in folder.iterdir() if path.name != "wanted")
    except (OSError, ValueError):  # deleted meanwhile, no folder, or empty
        return time.time()
