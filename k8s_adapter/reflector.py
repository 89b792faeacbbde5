"""A reflector of Jobs and pods: what the cluster told is kept, so that nobody need ask for it again.

List, watch, and list again rather than trust a watch that has gone quiet: the reflector of Kubernetes' own controllers
(k8s.io/client-go/tools/cache, Reflector). Of each object only what `diagnose` reads is kept. Events are not watched,
since a cluster has too many: they are listed for runs that are held up, so many a second for all runs together.
"""

import logging
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from k8s_adapter import names
from k8s_adapter.client import Api, Object
from k8s_adapter.diagnose import diagnose
from k8s_adapter.transform import slim_event, slim_job, slim_pod
from runtimes.base import Cause, Observed, Phase, RunRef, RuntimeFault, WatchEvent

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 4.0  # the contract says 5
# Without a word on a watch for this long, list again: a connection may be dead without either side having noticed.
SILENCE_SECONDS = 30.0
PAUSES = (0.2, 2.0)  # seconds between tries, shortest and longest
PAGE = "500"  # objects in one answer to a list
# What holds up a run (admission, quota, a mount) shows in events alone. They are listed for one that is pending for
# EVENTS_AFTER_SECONDS, then ever more rarely; and never more than EVENTS_PER_SECOND lists for all runs.
EVENTS_AFTER_SECONDS = 2.0
EVENTS_EVERY = (3.0, 60.0)  # seconds between two lists for one run, shortest and longest
QUOTA_EVERY = 300.0  # the longest for one that waits for the quota: when there is room, it gets a pod
EVENTS_PER_SECOND, EVENTS_AT_ONCE = 5.0, 10.0
EVENTS_KEPT = 20  # of a run: the newest
SKIPPED_REMEMBERED = 1000  # objects that can't be read, each logged once

skipped: Counter[str] = Counter()  # how many objects could not be read, and how many watches failed, by reason


@dataclass(slots=True, eq=False)
class _RunObjects:
    """The objects of one run, as they were last seen."""

    since: float  # monotonic
    job: Object | None = None
    pods: dict[str, Object] = field(default_factory=dict)
    events: list[Object] = field(default_factory=list)
    observed: Observed | None = None
    held_up: bool = False  # pending, and its objects don't say why
    events_due_at: float = 0.0  # when its events may be listed (monotonic)


class Reflector:
    """Turns the changes of Jobs and pods, each watched by a thread of its own, into one stream of events."""

    def __init__(self, api: Api, paths: Sequence[str], selector: str, timeout: float, shared: str = "") -> None:
        self._api = api
        self._paths = paths
        self._selector = selector
        self._timeout = timeout
        self._shared = shared  # the namespace of all groups, if they share one
        self._objects: dict[str, dict[str, RunRef]] = {path: {} for path in paths}  # by path and "namespace/name"
        self._runs: dict[RunRef, _RunObjects] = {}
        self._changed: dict[RunRef, None] = {}  # in order; a run that changes twice meanwhile is yielded once
        self._fault: Exception | None = None
        self._skipped: set[tuple[str, str]] = set()
        self._news = threading.Condition()
        self._done = threading.Event()

    def run(self, until: threading.Event) -> Iterator[WatchEvent | None]:
        """Yield as `Runtime.watch` says. Raises the last fault when one can't be watched for `timeout` seconds."""
        for path in self._paths:
            threading.Thread(target=self._follow, args=(path,), name=f"watch {path}", daemon=True).start()
        threading.Thread(target=self._poll_events, name="events of runs that are held up", daemon=True).start()
        last_heartbeat = time.monotonic()
        try:
            while not until.is_set():
                with self._news:
                    if not self._changed and self._fault is None:
                        self._news.wait(0.25)
                    changed, self._changed = list(self._changed), {}
                    fault = self._fault
                for ref in changed:
                    if event := self._event_of(ref):
                        yield event
                if fault is not None:
                    raise fault
                if time.monotonic() - last_heartbeat > HEARTBEAT_SECONDS:
                    last_heartbeat = time.monotonic()
                    yield None
        finally:
            self._done.set()

    # --- a thread for each collection -------------------------------------------------------------------------------

    def _follow(self, path: str) -> None:
        """Follow one collection until `run` ends. A thread's body: the fault that ends it is raised by `run`.

        Nothing else ends it. A watch that did not outlast the pause before it is no success: what makes each one fail
        at once, even a 410 or an end in good order, is tried with growing pauses.
        """
        failing_since: float | None = None
        pause = PAUSES[0]
        while not self._done.is_set():
            error: Exception | None = None
            begun = time.monotonic()
            try:
                version = self._list(path)
                begun = time.monotonic()
                self._watch(path, version)
            except Exception as caught:
                error = caught
            now = time.monotonic()
            if now - begun > pause:
                failing_since, pause = None, PAUSES[0]
            if error is not None:
                failing_since = failing_since or now
                self._log_restart(path, error)
                if now - failing_since > self._timeout:
                    self._give_up(error)
                    return
            self._done.wait(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, PAUSES[1])

    def _log_restart(self, path: str, error: Exception) -> None:
        """Log why a watch is begun anew. What is no fault of the cluster's is a mistake of ours, and an error."""
        skipped[f"watch: {type(error).__name__}"] += 1
        if isinstance(error, RuntimeFault):
            log.info("watching %s again: %s", path, error)
        else:
            log.error("watching %s again: it failed", path, exc_info=error)

    def _give_up(self, error: Exception) -> None:
        with self._news:
            self._fault = error
            self._news.notify()

    def _list(self, path: str) -> str:
        """Store everything that exists and return the resource version to watch from."""
        listed: set[str] = set()
        query = {"labelSelector": self._selector, "limit": PAGE}
        while True:
            page = self._api.get(path, **query)
            for item in page["items"]:
                if name := self._upsert(path, item):
                    listed.add(name)
            if not (more := page["metadata"].get("continue")):
                break
            query["continue"] = more
        for name in self._objects[path].keys() - listed:  # went while nobody watched
            self._delete(path, name)
        return str(page["metadata"]["resourceVersion"])

    def _watch(self, path: str, version: str) -> None:
        """Store changes until the server ends the watch (after 5 minutes at most) or `Api.watch` raises."""
        query = {"labelSelector": self._selector, "resourceVersion": version, "timeoutSeconds": "300"}
        for event in self._api.watch(path, SILENCE_SECONDS, **query):
            if self._done.is_set():
                return
            if event["type"] != "BOOKMARK":
                self._upsert(path, event["object"], gone=event["type"] == "DELETED")

    # --- the store --------------------------------------------------------------------------------------------------

    def _upsert(self, path: str, item: Object, gone: bool = False) -> str:
        """Store one object, and return its "namespace/name"; "" for one that is skipped.

        Anybody who may make an object in some namespace may give it Berth's labels, and any value in them.
        """
        name = "?"
        try:
            metadata = item["metadata"]
            name = f"{metadata['namespace']}/{metadata['name']}"
            if gone:
                self._delete(path, name)
                return name
            ref = self._ref(path, metadata)
            pod = slim_pod(item) if path.endswith("/pods") else None
            job = slim_job(item) if pod is None else None
        except Exception as error:
            self._skip(path, name, str(error) if isinstance(error, _Mislabelled) else repr(error))
            return ""
        with self._news:
            self._objects[path][name] = ref
            known = self._runs.setdefault(ref, _RunObjects(time.monotonic()))
            if pod is not None:
                known.pods[name] = pod
            else:
                known.job = job
            self._changed[ref] = None
            self._news.notify()
        return name

    def _delete(self, path: str, name: str) -> None:
        """An object is gone."""
        with self._news:
            ref = self._objects[path].pop(name, None)
            known = self._runs.get(ref) if ref else None
            if ref is None or known is None:
                return
            if path.endswith("/pods"):
                known.pods.pop(name, None)
            else:
                known.job = None
            self._changed[ref] = None
            self._news.notify()

    def _ref(self, path: str, metadata: Object) -> RunRef:
        """The run that an object is of. Raises _Mislabelled if it is none's, whatever its labels say."""
        ref = names.ref_of(metadata.get("labels") or {})
        if ref is None:
            raise _Mislabelled("its labels name no run")
        try:
            uuid.UUID(ref.run)
        except ValueError:
            raise _Mislabelled(f"its label {names.RUN} is no run's id") from None
        if metadata["namespace"] != names.namespace(ref.slug, self._shared):
            raise _Mislabelled("it is not in its group's namespace")
        if not path.endswith("/pods") and metadata["name"] != names.job(ref.run):
            raise _Mislabelled("it does not have the name of its run's Job")
        return ref

    def _skip(self, path: str, name: str, reason: str) -> None:
        """Count an object that is no run's, or can't be read, and log it once."""
        skipped[path.rpartition("/")[2]] += 1
        if (name, reason) in self._skipped:
            return
        if len(self._skipped) >= SKIPPED_REMEMBERED:
            self._skipped.clear()
        self._skipped.add((name, reason))
        log.warning("%s of %s is set aside: %s", name[:200], path, reason[:500])

    def _event_of(self, ref: RunRef) -> WatchEvent | None:
        """The event of a run, if what is observed of it differs from the last one."""
        with self._news:
            known = self._runs.get(ref)
            if known is None:
                return None
            job, pods, events = known.job, list(known.pods.values()), known.events
            if job is None and not pods:
                del self._runs[ref]
        try:
            bare = diagnose(job, pods, [])
            known.held_up = job is not None and bare.phase is Phase.PENDING and bare.cause is None
            if not known.held_up:
                known.events = events = []
            seen = diagnose(job, pods, events) if events else bare
        except Exception as error:
            self._skip("/runs", ref.run, f"what there is of it can't be read: {error!r}")
            return WatchEvent(ref)
        if known.observed and _is_unchanged(seen, known.observed):
            return None
        known.observed = seen
        return WatchEvent(ref, seen)

    # --- events -----------------------------------------------------------------------------------------------------

    def _poll_events(self) -> None:
        """List the events of runs that are held up, those first that are due longest. A thread's body."""
        tokens, counted = EVENTS_AT_ONCE, time.monotonic()
        while not self._done.wait(1 / EVENTS_PER_SECOND):
            now = time.monotonic()
            tokens, counted = min(EVENTS_AT_ONCE, tokens + (now - counted) * EVENTS_PER_SECOND), now
            for ref, known in self._due(now)[: int(tokens)]:
                tokens -= 1
                try:
                    self._list_events(ref, known)
                except Exception as error:
                    self._skip("/events", ref.run, f"no events of it: {error!r}")

    def _due(self, now: float) -> list[tuple[RunRef, _RunObjects]]:
        """The runs whose events are to be listed now."""
        with self._news:
            held = [(ref, known) for ref, known in self._runs.items() if known.held_up]
        due = [each for each in held if now >= max(each[1].events_due_at, each[1].since + EVENTS_AFTER_SECONDS)]
        return sorted(due, key=lambda each: each[1].events_due_at)

    def _list_events(self, ref: RunRef, known: _RunObjects) -> None:
        """Read what is said of a run's pod, or of its Job while that has none."""
        shortest, longest = EVENTS_EVERY
        if known.observed and known.observed.cause is Cause.QUOTA:
            longest = max(longest, QUOTA_EVERY)
        now = time.monotonic()
        known.events_due_at = now + min(max((now - known.since) / 2, shortest), longest)
        pods = sorted(known.pods)
        name = pods[-1].partition("/")[2] if pods else names.job(ref.run)
        namespace = names.namespace(ref.slug, self._shared)
        query = {"fieldSelector": f"involvedObject.name={name}", "limit": PAGE}
        items = self._api.get(f"/api/v1/namespaces/{namespace}/events", **query)["items"]
        found = [slim_event(item) for item in items[-EVENTS_KEPT:]]
        with self._news:
            if known.held_up and found != known.events:
                known.events = found
                self._changed[ref] = None
                self._news.notify()


def _is_unchanged(now: Observed, before: Observed) -> bool:
    """Whether nothing changed. A quota's refusal differs in its message at every try: a pod's name, what is used."""
    if now.cause is Cause.QUOTA:
        return replace(now, message="") == replace(before, message="")
    return now == before


class _Mislabelled(Exception):
    """An object is not what its labels say."""
