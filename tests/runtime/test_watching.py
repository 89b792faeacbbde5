"""Following collections whose API server is slow, forgetful or away."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from k8s_adapter import names, watching
from k8s_adapter.api import Expired, Object
from k8s_adapter.runtime import Cause, RunRef, RunSpec, TransientFault
from tests.runtime.places import KubernetesPlace
from tests.waiting import wait_for

JOBS = "/apis/batch/v1/jobs"
AWAY = TransientFault(Cause.UNREACHABLE, "connection refused")


def ref(number: int) -> RunRef:
    return RunRef(f"run-{number}", "session", "group", "blue-team")


def job(number: int, ready: int = 1) -> Object:
    metadata = {"name": f"job-{number}", "namespace": "ns", "labels": names.run_labels(ref(number), "main")}
    return {"metadata": metadata, "spec": {"template": {}}, "status": {"ready": ready}}


class Script:
    """An API server that answers from a list, one entry for each list or watch, and then waits."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.ended = threading.Event()
        self.lists = 0

    def get(self, path: str, **query: str) -> Object:
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


def follow(script: Script, enough: Callable[[list[RunRef | None]], bool], patience: float = 60) -> list[RunRef | None]:
    """Watch until what was told is enough."""
    until = threading.Event()
    told: list[RunRef | None] = []
    try:
        for each in watching.Watcher(script, [JOBS], "selector", patience).run(until):  # type: ignore[arg-type]
            told.append(each)
            if enough(told):
                until.set()
    finally:
        script.ended.set()
    return told


def test_what_exists_is_told_and_then_what_changes() -> None:
    script = Script([job(1)], [{"type": "ADDED", "object": job(2)}, {"type": "BOOKMARK", "object": {}}])
    assert follow(script, lambda told: len(told) == 2) == [ref(1), ref(2)]


@pytest.mark.parametrize("cut", [Expired(Cause.UNREACHABLE, "too old", 0), AWAY, []], ids=["410", "silence", "end"])
def test_a_watch_that_is_cut_is_followed_by_a_new_list(cut: Any) -> None:
    script = Script([job(1)], cut, [job(1), job(2)])
    assert follow(script, lambda told: ref(2) in told)[-1] == ref(2)
    assert script.lists >= 2


def test_what_went_while_nobody_watched_is_told() -> None:
    script = Script([job(1), job(2)], AWAY, [job(1)])
    assert follow(script, lambda told: told.count(ref(2)) == 2).count(ref(1)) >= 1


def test_an_api_server_that_is_away_for_a_while_is_survived() -> None:
    script = Script([job(1)], AWAY, AWAY, AWAY, AWAY, [job(1), job(2)])
    assert ref(2) in follow(script, lambda told: ref(2) in told)


def test_an_api_server_that_stays_away_ends_the_watch_with_a_fault() -> None:
    class Away(Script):
        def get(self, path: str, **query: str) -> Object:
            raise AWAY

    with pytest.raises(TransientFault, match="connection refused"):
        follow(Away(), lambda told: False, patience=0.5)


def test_only_an_unbroken_row_of_failures_counts_against_patience() -> None:
    """A watch may have lasted for minutes before it is cut."""

    class Long(Script):
        def watch(self, path: str, silence: float, **query: str) -> Iterator[Object]:
            self.ended.wait(0.5)
            yield from ()
            raise AWAY

    script = Long([job(1)], [job(1)], [job(1), job(2)])
    assert ref(2) in follow(script, lambda told: ref(2) in told, patience=0.3)


def test_without_news_there_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "SIGN_OF_LIFE_SECONDS", 0.1)
    assert follow(Script([]), lambda told: len(told) == 2) == [None, None]


def test_a_pending_run_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds it up may show in events alone, which nobody watches."""
    monkeypatch.setattr(watching, "PENDING_SECONDS", 0.1)
    script = Script([job(1, ready=0), job(2)])
    told = follow(script, lambda told: told.count(ref(1)) == 3)
    assert told.count(ref(2)) == 1


def test_it_ends_when_told_to() -> None:
    until = threading.Event()
    script = Script([job(1)])
    watcher = watching.Watcher(script, [JOBS], "selector", 60)  # type: ignore[arg-type]
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
    thread = threading.Thread(target=lambda: [told.append(each) for each in cluster.runtime.watch(until)])
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
