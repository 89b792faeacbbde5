"""What every runtime must do: one suite, run against each."""

import threading
from dataclasses import replace

import pytest

from runtimes.base import Cause, Description, GroupRef, Observed, PermanentFault, Phase, RunRef, SecretFile
from testbed.waiting import wait_for
from tests.runtime.places import Crash, Place

SECONDS = 60  # the most that anything here may take


def finished(place: Place, ref: RunRef) -> Observed:
    """Wait until a run is over, and return how it ended."""

    def look() -> Observed | None:
        seen = place.runtime.observe(ref)
        return seen if seen.phase is Phase.FINISHED else None

    seen = wait_for(look, SECONDS, "the run to end")
    assert seen is not None
    return seen


def running(place: Place, ref: RunRef) -> None:
    """Wait until a run's agent lives, with a courier beside it."""

    def look() -> bool:
        seen = place.runtime.observe(ref)
        return seen.phase is Phase.RUNNING and seen.courier_alive

    wait_for(look, SECONDS, "the run to start")


def run(place: Place, script: str) -> str:
    """Run a script to its end and return what it printed."""
    spec, line = place.spec(script)
    place.runtime.ensure(spec)
    finished(place, spec.ref)
    return line.output()


def test_a_run_says_something_and_completes(place: Place) -> None:
    spec, line = place.spec("echo hello; echo $((40 + 2)) $$ '$(HOME)'")
    place.runtime.ensure(spec)
    seen = finished(place, spec.ref)
    assert (seen.cause, seen.exit_code) == (Cause.COMPLETED, 0)
    assert seen.started_at
    assert line.output().startswith("hello\n42 ")
    assert line.output().endswith(" $(HOME)\n")
    assert line.exit_code() == 0


def test_a_message_reaches_the_agent(place: Place) -> None:
    spec, line = place.spec('text=$(cat); echo "got $text"', "good morning", contract="plain")
    place.runtime.ensure(spec)
    finished(place, spec.ref)
    assert "got good morning" in line.output()


def test_an_exit_code_is_told(place: Place) -> None:
    spec, line = place.spec("echo oh no >&2; exit 3")
    place.runtime.ensure(spec)
    seen = finished(place, spec.ref)
    assert (seen.cause, seen.exit_code) == (Cause.AGENT_ERROR, 3)
    assert line.exit_code() == 3


def test_a_second_ensure_adopts(place: Place) -> None:
    spec, line = place.spec("echo started; sleep 60")
    place.runtime.ensure(spec)
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    place.other_process().ensure(spec)
    running(place, spec.ref)
    place.runtime.stop(spec.ref)
    finished(place, spec.ref)
    place.runtime.ensure(spec)  # not even when it is over
    assert place.runtime.observe(spec.ref).phase is Phase.FINISHED
    assert line.output() == "started\n"


@pytest.mark.parametrize("step", [1, 2])
def test_an_ensure_that_was_killed_is_finished_by_the_next(place: Place, step: int) -> None:
    spec, line = place.spec("echo started")
    with place.crash_after(step), pytest.raises(Crash):
        place.runtime.ensure(spec)
    assert list(place.runtime.runs()) == [spec.ref]
    place.other_process().ensure(spec)
    assert finished(place, spec.ref).cause is Cause.COMPLETED
    assert line.output() == "started\n"


@pytest.mark.parametrize("step", [1, 2])
def test_an_ensure_that_was_killed_can_be_destroyed(place: Place, step: int) -> None:
    spec, _ = place.spec("echo started; sleep 60")
    with place.crash_after(step), pytest.raises(Crash):
        place.runtime.ensure(spec)
    place.runtime.destroy(spec.ref)
    wait_for(lambda: not place.leftovers(spec.ref), SECONDS, "nothing to be left")


def test_another_spec_under_the_same_id_is_refused(place: Place) -> None:
    spec, _ = place.spec("sleep 60")
    place.runtime.ensure(spec)
    with pytest.raises(PermanentFault) as refused:
        place.runtime.ensure(replace(spec, command=("sh", "-c", "sleep 61")))
    assert refused.value.cause is Cause.REJECTED


def test_a_stopped_run_ends_and_stays_observable(place: Place) -> None:
    spec, line = place.spec("echo started; sleep 60 & wait")
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    place.runtime.stop(spec.ref)
    place.runtime.stop(spec.ref)
    assert finished(place, spec.ref).cause is Cause.STOPPED
    assert list(place.runtime.runs()) == [spec.ref]
    place.runtime.ensure(spec)  # does not bring it back
    assert place.runtime.observe(spec.ref).phase is Phase.FINISHED


def test_an_agent_that_ignores_sigterm_is_killed_and_its_last_words_arrive(place: Place) -> None:
    spec, line = place.spec("trap 'echo last words' TERM; echo started; while :; do sleep 0.1; done")
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    place.runtime.stop(spec.ref)
    finished(place, spec.ref)
    assert "last words" in line.output()


def test_stopping_what_was_never_made_is_nothing(place: Place) -> None:
    spec, _ = place.spec("true")
    place.runtime.stop(spec.ref)
    place.runtime.destroy(spec.ref)
    assert place.runtime.observe(spec.ref) == Observed(Phase.ABSENT)


def test_nothing_is_revived_of_what_is_not_there_or_was_stopped(place: Place) -> None:
    spec, _ = place.spec("sleep 60")
    place.runtime.revive(spec)
    assert place.runtime.observe(spec.ref).phase is Phase.ABSENT
    place.runtime.ensure(spec)
    running(place, spec.ref)
    place.runtime.stop(spec.ref)
    finished(place, spec.ref)
    place.runtime.revive(spec)
    assert place.runtime.observe(spec.ref).phase is Phase.FINISHED


def test_destroy_leaves_nothing_but_the_workspace(place: Place) -> None:
    spec, line = place.spec("echo kept > $BERTH_WORKSPACE/file; (setsid sleep 50 &) ; echo started; sleep 60")
    place.runtime.ensure(spec)
    wait_for(lambda: "started" in line.output(), SECONDS)
    place.runtime.destroy(spec.ref)
    place.runtime.destroy(spec.ref)
    wait_for(lambda: not place.leftovers(spec.ref), SECONDS, "nothing to be left")
    assert place.runtime.observe(spec.ref).phase is Phase.ABSENT
    assert list(place.runtime.runs()) == []
    assert run(place, "cat $BERTH_WORKSPACE/file") == "kept\n"


def test_what_an_agent_writes_is_there_in_the_next_run(place: Place) -> None:
    run(place, "echo work > file; echo state > $BERTH_STATE/file; echo point > $BERTH_WORKSPACE/../checkpoints/file")
    assert run(place, "cat file $BERTH_STATE/file ../checkpoints/file") == "work\nstate\npoint\n"


def test_the_home_and_the_temporary_folder_can_be_written(place: Place) -> None:
    assert run(place, "cd && echo a > a && cat a && echo b > /tmp/b.$$ && cat /tmp/b.$$ && rm /tmp/b.$$") == "a\nb\n"


def test_an_agent_sees_its_secrets_and_not_the_token(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_SECRET_TEST", "from the environment")
    secrets = (
        SecretFile("stored", place.put_secret("keys", "api", "from a store")),
        SecretFile("variable", "env:BERTH_SECRET_TEST"),
    )
    script = "cat $BERTH_SECRETS/stored; echo; cat $BERTH_SECRETS/variable; echo; ls $BERTH_SECRETS; env"
    spec, line = place.spec(script, secrets=secrets)
    place.runtime.ensure(spec)
    assert finished(place, spec.ref).cause is Cause.COMPLETED
    values, variables = line.output().split("stored\nvariable\n")
    assert len(values.splitlines()) == 2  # the courier may have redacted them
    assert spec.token not in variables
    assert "BERTH_SECRET_TEST" not in variables


@pytest.mark.parametrize(
    "source",
    ["env:BERTH_SECRET_NOT_SET", "env:PATH", "file:/nonexistent/key", "operators:vault/a/b", "nowhere"],
)
def test_a_missing_secret_is_named(place: Place, source: str) -> None:
    spec, _ = place.spec("true", secrets=(SecretFile("api-key", source),))
    with pytest.raises(PermanentFault, match="api-key") as fault:
        place.runtime.ensure(spec)
    assert fault.value.cause is Cause.MOUNT
    assert place.runtime.observe(spec.ref).phase is Phase.ABSENT


def test_a_secret_that_changes_reaches_a_run_that_lives(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_SECRET_TEST", "the first")
    made = SecretFile("made", "broker:model", "stand-in")
    secrets = (SecretFile("variable", "env:BERTH_SECRET_TEST"), made)
    # What is seen is told by its length: the value itself may be redacted on its way.
    script = 'n=; while :; do m=$(wc -c < $BERTH_SECRETS/variable); [ $m = "$n" ] || echo $m; n=$m; sleep 0.2; done'
    spec, line = place.spec(script, secrets=secrets)
    place.runtime.ensure(spec)
    wait_for(lambda: line.output() == "9\n", SECONDS, "the first value")
    assert not place.runtime.renew(spec.ref, secrets)
    assert not place.other_process().renew(spec.ref, secrets)
    monkeypatch.setenv("BERTH_SECRET_TEST", "another, longer")
    assert place.runtime.renew(spec.ref, secrets)
    assert not place.runtime.renew(spec.ref, secrets)
    wait_for(lambda: line.output() == "9\n15\n", 150, "the next value")  # a kubelet takes a minute and more
    monkeypatch.delenv("BERTH_SECRET_TEST")
    with pytest.raises(PermanentFault, match="variable"):
        place.runtime.renew(spec.ref, secrets)
    place.runtime.destroy(spec.ref)
    assert not place.runtime.renew(spec.ref, (made,))


def test_one_secret_can_be_read_for_a_group(place: Place) -> None:
    secret = SecretFile("stored", place.put_secret("keys", "api", "from a store"))
    assert place.runtime.secret(GroupRef(place.group, place.slug), secret) == b"from a store"
    with pytest.raises(PermanentFault, match="'other'"):
        place.runtime.secret(GroupRef(place.group, place.slug), SecretFile("other", "env:PATH"))


def test_the_environment_is_the_specs_and_not_the_control_planes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "private")
    spec, line = place.spec("env", environment={"COLOUR": "$$blue $(HOME)"})
    place.runtime.ensure(spec)
    finished(place, spec.ref)
    assert "COLOUR=$$blue $(HOME)\n" in line.output()
    assert f"BERTH_RUN={spec.ref.run}\n" in line.output()
    assert "DATABASE_URL" not in line.output()


def test_a_killed_courier_is_revived_and_nothing_is_lost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 400
    monkeypatch.setenv("BERTH_SECRET_TEST", "soon gone")
    script = f"i=0; while [ $i -lt {count} ]; do i=$((i+1)); echo $i; sleep 0.01; done"
    spec, line = place.spec(script, secrets=(SecretFile("variable", "env:BERTH_SECRET_TEST"),))
    place.runtime.ensure(spec)
    monkeypatch.delenv("BERTH_SECRET_TEST")  # nothing of a run that lives is read anew
    wait_for(lambda: "50\n" in line.output(), SECONDS)
    courier = wait_for(lambda: place.courier(spec.ref))
    assert courier is not None
    courier.kill()
    courier.wait(10)

    def over() -> bool:
        place.other_process().revive(spec)
        return place.runtime.observe(spec.ref).phase is Phase.FINISHED

    wait_for(over, SECONDS, "the run to end")
    assert line.output().splitlines() == [str(number) for number in range(1, count + 1)]
    assert line.hellos >= 2


def test_watch_tells_of_every_change(place: Place) -> None:
    earlier, _ = place.spec("sleep 60")
    place.runtime.ensure(earlier)
    until = threading.Event()
    told: list[RunRef | None] = []
    seen: list[Phase] = []  # of the later run, as observed whenever the watch told of it
    later, _ = place.spec("true")

    def follow() -> None:
        for sighting in place.runtime.watch(until):
            told.append(sighting and sighting.ref)
            if sighting and sighting.ref == later.ref:
                seen.append((sighting.observed or place.runtime.observe(later.ref)).phase)

    watcher = threading.Thread(target=follow, daemon=True)
    watcher.start()
    wait_for(lambda: earlier.ref in told, SECONDS, "the run that existed")
    place.runtime.ensure(later)
    wait_for(lambda: Phase.FINISHED in seen, SECONDS, "the end of the later run")
    place.runtime.destroy(later.ref)
    wait_for(lambda: Phase.ABSENT in seen, SECONDS, "the later run to be gone")
    wait_for(lambda: None in told, SECONDS, "a sign of life")
    until.set()
    watcher.join(10)
    assert not watcher.is_alive()


def test_owned_lists_every_run(place: Place) -> None:
    specs = [place.spec("sleep 60")[0] for _ in range(2)]
    for spec in specs:
        place.runtime.ensure(spec)
    assert set(place.runtime.runs()) == {spec.ref for spec in specs}
    place.runtime.destroy(specs[0].ref)
    wait_for(lambda: list(place.runtime.runs()) == [specs[1].ref], SECONDS)


def test_a_run_is_described(place: Place) -> None:
    spec, line = place.spec("echo up; sleep 60", environment={"API_KEY": "k-123", "COLOUR": "blue"})
    place.runtime.ensure(spec)
    running(place, spec.ref)
    wait_for(lambda: "up" in line.output(), SECONDS)

    seen = place.other_process().describe(spec.ref)
    assert {"courier", "started"} <= seen.steps.keys()
    assert "blue" in str(seen.manifest)
    assert "k-123" not in str(seen.manifest) and spec.token not in str(seen.manifest)
    place.runtime.destroy(spec.ref)


def test_nothing_is_told_of_a_run_that_never_was(place: Place) -> None:
    spec, _ = place.spec("true")
    assert place.runtime.describe(spec.ref) == Description()


def test_a_runtime_that_works_answers_a_ping(place: Place) -> None:
    place.runtime.ping()
    place.other_process().ping()
