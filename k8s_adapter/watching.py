"""Watching Jobs and pods: list, watch, and list again rather than trust a watch that has gone quiet."""

import logging
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence

from k8s_adapter import names
from k8s_adapter.api import Api, Expired, Object
from k8s_adapter.runtime import RunRef, RuntimeFault

log = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 4.0  # the contract says 5
# Without a word on a watch for this long, list again: a connection may be dead without either side having noticed.
SILENCE_SECONDS = 30.0
# What holds up a pending Job (admission, quota, a mount) shows in events alone, which are not watched: a pending run is
# announced again this often.
PENDING_SECONDS = 3.0
PAUSES = (0.2, 2.0)  # seconds between tries, shortest and longest


class Watcher:
    """Turns the changes of collections, each watched by a thread of its own, into one stream of runs."""

    def __init__(self, api: Api, paths: Sequence[str], selector: str, patience: float) -> None:
        self._api = api
        self._paths = paths
        self._selector = selector
        self._patience = patience
        self._changes: queue.Queue[RunRef | RuntimeFault] = queue.Queue()
        self._known: dict[str, dict[str, RunRef]] = {path: {} for path in paths}  # by path and "namespace/name"
        self._pending: dict[str, RunRef] = {}  # runs whose Job has no working pod, by "namespace/name" of the Job
        self._done = threading.Event()

    def run(self, until: threading.Event) -> Iterator[RunRef | None]:
        """Yield as `Runtime.watch` says. Raises the last fault when one can't be watched for `patience` seconds."""
        for path in self._paths:
            threading.Thread(target=self._follow, args=(path,), name=f"watch {path}", daemon=True).start()
        last_sign = last_pending = time.monotonic()
        try:
            while not until.is_set():
                try:
                    change = self._changes.get(timeout=0.25)
                    if isinstance(change, RuntimeFault):
                        raise change
                    yield change
                except queue.Empty:
                    pass
                now = time.monotonic()
                if now - last_pending > PENDING_SECONDS:
                    last_pending = now
                    yield from list(self._pending.values())
                if now - last_sign > SIGN_OF_LIFE_SECONDS:
                    last_sign = now
                    yield None
        finally:
            self._done.set()

    def _follow(self, path: str) -> None:
        """Follow one collection until told to end. A thread's body: what ends it is handed to `run`."""
        failing_since: float | None = None
        pause = PAUSES[0]
        while not self._done.is_set():
            try:
                version = self._list(path)
                failing_since, pause = None, PAUSES[0]
                self._watch(path, version)
            except Expired:
                continue
            except RuntimeFault as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > self._patience:
                    self._changes.put(error)
                    return
                log.info("watching %s again: %s", path, error)
                self._done.wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, PAUSES[1])

    def _list(self, path: str) -> str:
        """Announce everything that exists and return the resource version to watch from."""
        listed = self._api.get(path, labelSelector=self._selector)
        before, self._known[path] = self._known[path], {}
        for item in listed["items"]:
            self._announce(path, item)
        for name in before.keys() - self._known[path].keys():  # went while nobody watched
            self._pending.pop(name, None)
            self._changes.put(before[name])
        return str(listed["metadata"]["resourceVersion"])

    def _watch(self, path: str, version: str) -> None:
        """Announce changes until the server ends the watch (after 5 minutes at most) or `Api.watch` raises."""
        query = {"labelSelector": self._selector, "resourceVersion": version, "timeoutSeconds": "300"}
        for event in self._api.watch(path, SILENCE_SECONDS, **query):
            if self._done.is_set():
                return
            if event["type"] != "BOOKMARK":
                self._announce(path, event["object"], gone=event["type"] == "DELETED")

    def _announce(self, path: str, item: Object, gone: bool = False) -> None:
        metadata = item["metadata"]
        ref = names.ref_of(metadata.get("labels") or {})
        if ref is None:
            return
        name = f"{metadata['namespace']}/{metadata['name']}"
        if gone:
            self._known[path].pop(name, None)
        else:
            self._known[path][name] = ref
        if path.endswith("/jobs"):
            if not gone and _pending(item):
                self._pending[name] = ref
            else:
                self._pending.pop(name, None)
        self._changes.put(ref)


def _pending(job: Object) -> bool:
    """Whether a Job has no pod that works yet. `ready` counts pods that are Ready."""
    status = job.get("status", {})
    over = any(each.get("status") == "True" for each in status.get("conditions") or ())
    return not over and not status.get("ready")
