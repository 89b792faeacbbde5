"""Following collections whose API server is slow, forgetful or away, and whose objects may be anybody's."""

import copy
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_adapter import names, reflector
from k8s_adapter.client import Expired, Object
from runtimes.base import Cause, Phase, RunRef, RunSpec, TransientFault, WatchEvent
from testbed.waiting import wait_for
from tests.runtime.places import KubernetesPlace

JOBS, PODS = "/apis/batch/v1/jobs", "/api/v1/pods"
AWAY = TransientFault(Cause.UNREACHABLE, "connection refused")
OLD = Expired(Cause.UNREACHABLE, "too old", 0)


def ref(number: int) -> RunRef:
    return RunRef(f"{number:08}-1111-4111-8111-111111111111", "session", "group", "blue-team")


def job(number: int, over: bool = False) -> Object:
    metadata = {
        "name": names.job(ref(number).run),
        "namespace": "berth-blue-team",
        "labels": names.run_labels(ref(number), "main"),
    }
    conditions = [{"type": "Complete", "status": "True"}] if over else []
    return {"metadata": metadata, "spec": {"template": {}}, "status": {"conditions": conditions}}


def pod(number: int, **state: Any) -> Object:
    status = {"phase": "Pending", "containerStatuses": [{"name": names.AGENT, "state": state}]}
    metadata = job(number)["metadata"]
    return {"metadata": metadata | {"name": f"{metadata['name']}-x"}, "spec": {"nodeName": "one"}, "status": status}


def with_label(run: object) -> Object:
    item = job(9)
    item["metadata"]["labels"][names.RUN] = run
    return item


class Script:
    """An API server that answers from a list, one entry for each list or watch, and then waits."""

    def __init__(self, *answers: Any, events: Any = ()) -> None:
        self.answers = list(answers)
        self.ended = threading.Event()
        self.lists = 0
        self.events = events
        self.asked_events = 0

    def get(self, path: str, **query: str) -> Object:
        if path.endswith("/events"):
            self.asked_events += 1
            return {"items": list(self.events)}
        self.lists += 1
        answer = self._next([])
        return {"metadata": {"resourceVersion": "1"}, "items": answer}

    def watch(self, path: str, silence: float, **query: str) -> Iterator[Object]:
        assert query["resourceVersion"] == "1"
        events = self._next(None)
        if events is None:  # the script is over
            self.ended.wait(30)
        yield from events or ()

    def _next(self, default: Any) -> Any:
        answer = self.answers.pop(0) if self.answers else default
        if isinstance(answer, Exception):
            raise answer
        return answer


def follow(script: Script, enough: Callable[[list[RunRef | None]], bool], timeout: float = 60) -> list[RunRef | None]:
    """Watch until what was told is enough."""
    return [each and each.ref for each in sightings(script, lambda told: enough([t and t.ref for t in told]), timeout)]


def sightings(
    script: Script, enough: Callable[[list[WatchEvent | None]], bool], timeout: float = 60, path: str = JOBS
) -> list[WatchEvent | None]:
    """As `follow`, with what was seen of each run."""
    until = threading.Event()
    told: list[WatchEvent | None] = []
    try:
        for each in reflector.Reflector(script, [path], "selector", timeout).run(until):  # type: ignore[arg-type]
            told.append(each)
            if enough(told):
                until.set()
    finally:
        script.ended.set()
    return told


def test_what_exists_is_told_and_then_what_changes() -> None:
    script = Script([job(1)], [{"type": "ADDED", "object": job(2)}, {"type": "BOOKMARK", "object": {}}])
    assert follow(script, lambda told: len(told) == 2) == [ref(1), ref(2)]


@pytest.mark.parametrize("cut", [OLD, AWAY, [], ValueError("odd")], ids=["410", "silence", "end", "our mistake"])
def test_a_watch_that_is_cut_is_followed_by_a_new_list(cut: Any) -> None:
    script = Script([job(1)], cut, [job(1), job(2)])
    assert follow(script, lambda told: ref(2) in told)[-1] == ref(2)
    assert script.lists >= 2


def test_what_went_while_nobody_watched_is_told() -> None:
    script = Script([job(1), job(2)], AWAY, [job(1)])
    told = sightings(script, lambda told: len(told) == 3)
    assert told[-1] and (told[-1].ref, _phase(told[-1])) == (ref(2), "absent")


def test_an_api_server_that_is_away_for_a_while_is_survived() -> None:
    script = Script([job(1)], AWAY, AWAY, AWAY, AWAY, [job(1), job(2)])
    assert ref(2) in follow(script, lambda told: ref(2) in told)


def test_an_api_server_that_stays_away_ends_the_watch_with_a_fault() -> None:
    class Away(Script):
        def get(self, path: str, **query: str) -> Object:
            raise AWAY

    with pytest.raises(TransientFault, match="connection refused"):
        follow(Away(), lambda told: False, timeout=0.5)


def test_only_an_unbroken_row_of_failures_counts_against_patience() -> None:
    """A watch may have lasted for minutes before it is cut."""

    class Long(Script):
        def watch(self, path: str, silence: float, **query: str) -> Iterator[Object]:
            self.ended.wait(0.5)
            yield from ()
            raise AWAY

    script = Long([job(1)], [job(1)], [job(1), job(2)])
    assert ref(2) in follow(script, lambda told: ref(2) in told, timeout=0.3)


def test_without_news_there_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "HEARTBEAT_SECONDS", 0.1)
    assert follow(Script([]), lambda told: len(told) == 2) == [None, None]


def test_what_did_not_change_is_not_told_again() -> None:
    again = {"type": "MODIFIED", "object": job(1)}
    script = Script([job(1)], [again, again], [job(1)], [again, {"type": "MODIFIED", "object": job(1, over=True)}])
    told = sightings(script, lambda told: len(told) == 2)
    assert [each and each.observed and each.observed.phase for each in told] == [Phase.PENDING, Phase.FINISHED]


def test_what_holds_a_run_up_is_read_from_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "EVENTS_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(reflector, "EVENTS_PER_SECOND", 50.0)
    script = Script([job(1), job(2, over=True)], events=[{"reason": "FailedCreate", "message": "exceeded quota: x"}])
    told = sightings(script, lambda told: len(told) == 3)
    held = [each.observed.cause for each in told if each and each.observed and each.ref == ref(1)]
    assert held == [None, Cause.QUOTA]


def test_other_words_for_the_same_quota_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "EVENTS_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(reflector, "EVENTS_EVERY", (0.0, 0.0))
    monkeypatch.setattr(reflector, "EVENTS_PER_SECOND", 50.0)

    class Counting(Script):
        def get(self, path: str, **query: str) -> Object:
            self.events = [{"reason": "FailedCreate", "message": f"exceeded quota: used {self.asked_events}"}]
            return super().get(path, **query)

    monkeypatch.setattr(reflector, "HEARTBEAT_SECONDS", 0.1)
    script = Counting([job(1)])
    told = sightings(script, lambda told: script.asked_events > 5)
    assert [each.observed.cause for each in told if each and each.observed] == [None, Cause.QUOTA]


def test_events_are_listed_at_a_bounded_rate_however_many_runs_are_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "EVENTS_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(reflector, "EVENTS_AT_ONCE", 4.0)
    monkeypatch.setattr(reflector, "EVENTS_PER_SECOND", 20.0)
    script = Script([job(number) for number in range(300)])
    begun = time.monotonic()
    sightings(script, lambda told: script.asked_events > 10)
    assert script.asked_events <= 4 + 20 * (time.monotonic() - begun) + 1


def test_a_pods_state_is_told() -> None:
    alive = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    script = Script([pod(1)], [{"type": "MODIFIED", "object": pod(1, **alive)}, {"type": "DELETED", "object": pod(1)}])
    told = sightings(
        script, lambda told: len(told) >= 1 and told[-1] is not None and _phase(told[-1]) == "absent", 60, PODS
    )
    assert _phase(told[-1]) == "absent"


def _phase(event: WatchEvent | None) -> str:
    return str(event.observed.phase) if event and event.observed else ""


@pytest.mark.parametrize(
    "odd",
    [
        with_label("x"), with_label("9" * 63), with_label(""), with_label(None), with_label([]),
        job(9) | {"metadata": {}}, job(9) | {"metadata": None}, {}, [], None, "text", 7,
        job(9) | {"metadata": job(9)["metadata"] | {"namespace": "elsewhere"}},
        job(9) | {"metadata": job(9)["metadata"] | {"name": "another"}},
        job(9) | {"metadata": job(9)["metadata"] | {"labels": ["a"]}},
    ],
)  # fmt: skip
def test_an_object_that_is_nobodys_is_set_aside(odd: Any, caplog: pytest.LogCaptureFixture) -> None:
    before = reflector.skipped["jobs"]
    change = {"type": "ADDED", "object": odd}
    script = Script([odd, job(1), odd], [change, change, {"type": "ADDED", "object": job(2)}])
    assert follow(script, lambda told: ref(2) in told) == [ref(1), ref(2)]
    assert reflector.skipped["jobs"] == before + 4
    assert caplog.text.count("is set aside") == 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def put(item: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of an item with another value at a path."""
    if not path:
        return value
    whole = copy.deepcopy(item)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


WHOLE_POD = pod(
    9, terminated={"exitCode": 1, "reason": "OOMKilled", "message": "m", "finishedAt": "2026-01-01T00:00:00Z"}
)
WHOLE_POD["metadata"] |= {"creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z"}
WHOLE_POD["status"]["conditions"] = [{"type": "Ready", "status": "False", "reason": "r", "message": "m"}]
WHOLE_JOB = job(9, over=True)


PLACES = [(whole, path) for whole in (WHOLE_JOB, WHOLE_POD) for path in places(whole)]


@given(st.sampled_from(PLACES), ANYTHING)
def test_no_value_in_any_place_of_an_object_stops_the_watch(place: tuple[Object, tuple[Any, ...]], value: Any) -> None:
    whole, path = place
    odd = put(whole, path, value)
    collection = JOBS if whole is WHOLE_JOB else PODS
    good = job(1) if whole is WHOLE_JOB else pod(1)
    last = job(2) if whole is WHOLE_JOB else pod(2)
    script = Script([odd, good], [{"type": "MODIFIED", "object": odd}, {"type": "ADDED", "object": last}])
    told = sightings(script, lambda told: ref(2) in [each and each.ref for each in told], 60, collection)
    assert ref(1) in [each and each.ref for each in told]


@pytest.mark.parametrize("cut", [OLD, AWAY, ValueError("odd"), None], ids=["410", "fault", "our mistake", "end"])
def test_a_watch_that_is_cut_at_once_is_not_tried_in_a_hot_loop(cut: Any) -> None:
    class Cut(Script):
        def watch(self, path: str, silence: float, **query: str) -> Iterator[Object]:
            yield from ()
            if cut:
                raise cut

    script, until = Cut(), threading.Event()
    watcher = reflector.Reflector(script, [JOBS], "selector", 60)  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: list(watcher.run(until)))
    begun = time.monotonic()
    thread.start()
    wait_for(lambda: script.lists >= 4)
    until.set()
    thread.join(10)
    assert time.monotonic() - begun > 0.5 * (0.2 + 0.4 + 0.8)


@pytest.mark.parametrize("cut", [OLD, ValueError("odd")], ids=["410", "our mistake"])
def test_a_watch_that_fails_again_and_again_ends_with_its_fault(cut: Exception) -> None:
    class Cut(Script):
        def watch(self, path: str, silence: float, **query: str) -> Iterator[Object]:
            yield from ()
            raise cut

    with pytest.raises(type(cut)):
        follow(Cut(), lambda told: False, timeout=0.5)


def test_it_ends_when_told_to() -> None:
    until = threading.Event()
    script = Script([job(1)])
    watcher = reflector.Reflector(script, [JOBS], "selector", 60)  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: list(watcher.run(until)))
    thread.start()
    wait_for(lambda: script.lists == 1)
    until.set()
    thread.join(10)
    script.ended.set()
    assert not thread.is_alive()


@pytest.mark.cluster
def test_a_watch_goes_on_when_the_api_server_has_come_back(cluster: KubernetesPlace) -> None:
    before, after = (cluster.spec("true", image="registry.local/no-such-image:1")[0] for _ in range(2))
    until = threading.Event()
    told: list[RunRef | None] = []
    thread = threading.Thread(target=lambda: [told.append(each and each.ref) for each in cluster.runtime.watch(until)])
    thread.start()
    try:
        cluster.runtime.ensure(before)
        wait_for(lambda: before.ref in told, 30)
        for word in ("stop", "start"):
            subprocess.run([os.environ["CLUSTER_TOOL"], word, "apiserver"], check=True, capture_output=True)
        wait_for(lambda: made(cluster, after), 60, "an API server that takes orders")
        wait_for(lambda: after.ref in told, 60, "news of a run that was made after the outage")
        assert thread.is_alive()
    finally:
        until.set()
        thread.join(10)


def made(cluster: KubernetesPlace, spec: RunSpec) -> bool:
    """Whether the run could be made now."""
    try:
        cluster.runtime.ensure(spec)
    except TransientFault:
        return False
    return True
