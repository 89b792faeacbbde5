"""Journals that other runs of the group left on the volume: whoever comes next ships them.

One that can't be read is told of in its run's session, once, and set aside: nobody reads it again.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

from courier.client import Client, Ended, Over, Signal
from courier.events import Event
from courier.journal import ASIDE, segments, set_aside
from courier.journal_lock import claim, remove
from courier.log import log
from courier.settings import Settings
from courier.transcript import Transcript
from courier.uploader import Shipper

SETTLED = 600.0  # seconds after which a courier will not come back: a kubelet's longest pause is 300
KEPT_ASIDE = 7 * 24 * 3600.0  # seconds for which what was set aside stays on the volume, for a person who looks
REFUSED = (403, 404)


class Until(NamedTuple):
    """Set when the courier ends, or when the folder's own courier is back and wants it."""

    ended: Signal
    folder: Path

    def is_set(self) -> bool:
        """Tell whether to let go of the folder."""
        return self.ended.is_set() or (self.folder / "wanted").exists()

    def wait(self, timeout: float) -> bool:
        """Wait until the courier ends, at most `timeout` seconds."""
        return self.ended.wait(timeout)


def ship_leftovers(settings: Settings, ended: Signal) -> None:
    """Ship what other runs left and no living courier holds, then delete it. Raises Over if this run is over itself.

    The newest comes first, since messages wait for it: it is most likely that of the session's last run.
    """
    client = Client(settings.url, settings.token_file)
    for folder in sorted(settings.journals.iterdir(), key=_changed, reverse=True):
        if folder.name == settings.run or not folder.is_dir() or ended.is_set():
            continue
        try:
            lock = claim(folder)
            if lock is not None:
                try:
                    _settle_or_set_aside(folder, settings, client, Until(ended, folder))
                finally:
                    os.close(lock)
        except Ended:
            continue
        except OSError as error:  # not readable for this one; the next one may fare better
            log("leftover unreadable", leftover=folder.name, problem=repr(error))


def _settle_or_set_aside(folder: Path, settings: Settings, client: Client, until: Until) -> None:
    try:
        _settle(folder, settings, client, until)
    except (Over, Ended, OSError):
        raise
    except Exception as error:
        log("leftover set aside", leftover=folder.name, problem=type(error).__name__)
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        words = "the journal that this run left can't be read"
        shipper = Shipper(client, folder, folder.name, until)
        shipper.tell(Event("gap", words, {"events": 0, "bytes": size}), REFUSED)
        set_aside(folder)


def _settle(folder: Path, settings: Settings, client: Client, until: Until) -> None:
    """Ship one folder. It stays, nearly empty, if its courier may come back, or the control plane won't have it now."""
    age = time.time() - _changed(folder)
    if not segments(folder):
        if age > SETTLED:
            remove(folder, *([f"{ASIDE}*"] if age > KEPT_ASIDE else []))
        return
    transcript = Transcript(folder, settings)
    over = transcript.code is not None or age > SETTLED
    try:
        while transcript.step(final=True):
            pass
        shipper = Shipper(client, folder, folder.name, until)
        try:
            while answer := shipper.step(accept=REFUSED):
                if answer.status in REFUSED:
                    log("leftover refused", leftover=folder.name, status=answer.status)
                    return
                transcript.journal.forget(shipper.stored)
        except Over:
            shipper.hello()  # raises Over again if it is this run that is over, and not the one that left the folder
            over = True
    finally:
        transcript.close()
    log("leftover shipped", leftover=folder.name, last=transcript.journal.last)
    if over:
        remove(folder)


def _changed(folder: Path) -> float:
    """When something was last added to a folder, seconds since the epoch; now, if it can't be told."""
    try:
        return max(path.stat().st_mtime for path in folder.iterdir() if path.name != "wanted")
    except (OSError, ValueError):  # deleted meanwhile, no folder, or empty
        return time.time()
