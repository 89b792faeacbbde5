"""Verdicts on what a real cluster was seen to do: from recorded objects to the words that people read.

What the objects alone mean is tested in tests/runtime/test_diagnose.py; here they meet what Berth asked for and what
the courier reported.
"""

import json
from pathlib import Path

import pytest

from k8s_adapter.diagnose import diagnose
from runtimes.base import Cause, Observed, Phase
from sessions.choices import Intent
from sessions.lifecycle.end_reasons import ADVICE, Report, judge

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "kubernetes"
LATE = Intent.START_TIMEOUT
QUIET = Report()
PEAK = Report(exit_code=137, peak_bytes=64 * 1024**2)
MIDWAY = Report(unanswered=True)

TABLE = [
    # recording, what Berth asked for, what the courier told, cause, words, whether a retry is safe
    ("completed", Intent.NONE, QUIET, Cause.COMPLETED, "The agent finished.", True),
    ("completed", Intent.CLOSE, QUIET, Cause.CLOSED, "Closed by ada as asked.", True),
    ("completed", Intent.IDLE, QUIET, Cause.IDLE, "Closed after waiting long enough for a follow-up.", True),
    ("completed", Intent.PREEMPT, QUIET, Cause.PREEMPTED, "Closed while it had nothing to do,", True),
    ("agent_error", Intent.NONE, QUIET, Cause.AGENT_ERROR, "The agent ended with exit code 3.", False),
    ("agent_error", Intent.IDLE, QUIET, Cause.IDLE, "Closed after waiting long enough", True),
    ("agent_error", Intent.IDLE, MIDWAY, Cause.AGENT_ERROR, "The agent ended with exit code 3.", False),
    ("no_such_command", Intent.NONE, QUIET, Cause.AGENT_ERROR, "The agent ended with exit code 127.", False),
    ("no_shell", Intent.NONE, QUIET, Cause.REJECTED, 'exec: "sh": executable file not found', True),
    ("oom", Intent.NONE, PEAK, Cause.OOM, "it used more memory than its limit of 64Mi (peak 64Mi).", False),
    ("oom", Intent.NONE, QUIET, Cause.OOM, "it used more memory than its limit of 64Mi.", False),
    ("oom", Intent.IDLE, QUIET, Cause.OOM, "it used more memory than its limit of 64Mi.", False),
    ("oom", Intent.STOP, PEAK, Cause.STOPPED, "Stopped by ada.", True),
    ("stopped", Intent.STOP, QUIET, Cause.STOPPED, "Stopped by ada.", True),
    ("stopped", Intent.DEADLINE, QUIET, Cause.DEADLINE, "Ended at its time limit.", False),
    ("stopped", Intent.TURN_TIMEOUT, QUIET, Cause.TURN_TIMEOUT, "worked too long without a word.", False),
    ("stopped", Intent.HUNG, QUIET, Cause.HUNG, "its courier fell silent while the agent's process lived.", False),
    ("deadline", Intent.NONE, QUIET, Cause.DEADLINE, "Ended at its time limit.", False),
    ("evicted", Intent.NONE, QUIET, Cause.EVICTED, 'Usage of EmptyDir volume "tmp" exceeds the limit "16Mi".', False),
    ("evicted", Intent.IDLE, MIDWAY, Cause.EVICTED, "The cluster evicted it: ", False),
    ("evicted_by_api", Intent.NONE, QUIET, Cause.EVICTED, "The cluster evicted it: Eviction API: evicting.", False),
    ("preempted_by_priority", Intent.NONE, QUIET, Cause.EVICTED, "accommodate a higher priority pod.", False),
    ("node_lost", Intent.NONE, QUIET, Cause.NODE_LOST, "Its node was lost: Taint manager: deleting due to", False),
    ("node_came_back", Intent.NONE, QUIET, Cause.NODE_LOST, "Its node was lost: Taint manager: deleting", False),
    ("node_silent", Intent.HUNG, QUIET, Cause.HUNG, "its courier fell silent", False),
    ("vanished", Intent.NONE, QUIET, Cause.VANISHED, "removed from outside: somebody deleted the run's pod.", False),
    ("namespace_deleted", Intent.NONE, QUIET, Cause.VANISHED, "removed from outside: somebody deleted", False),
    ("namespace_terminating", Intent.STOP, QUIET, Cause.STOPPED, "Stopped by ada.", True),
    ("deleted_while_running", Intent.STOP, QUIET, Cause.STOPPED, "Stopped by ada.", True),
    ("running", Intent.HUNG, QUIET, Cause.HUNG, "its courier fell silent", False),
    ("image_pull", LATE, QUIET, Cause.IMAGE_PULL, 'failed to resolve reference "registry.local/no-such-image:1"', True),
    ("invalid_image_name", LATE, QUIET, Cause.IMAGE_PULL, "repository name (Not A Name) must be lowercase.", True),
    ("unschedulable", LATE, QUIET, Cause.UNSCHEDULABLE, "0/1 nodes are available: 1 Insufficient cpu.", True),
    ("kubelet_refused", Intent.NONE, QUIET, Cause.UNSCHEDULABLE, "Node didn't have enough resource: cpu,", True),
    ("pod_security", LATE, QUIET, Cause.REJECTED, 'violates PodSecurity "restricted', True),
    ("limit_range", LATE, QUIET, Cause.REJECTED, "maximum memory usage per Container is 100Mi", True),
    ("admission_policy", LATE, QUIET, Cause.REJECTED, "denied request: every pod needs a label cost-centre.", True),
    ("root_image", LATE, QUIET, Cause.REJECTED, "container has runAsNonRoot and image will run as root", True),
    ("quota", LATE, QUIET, Cause.QUOTA, "exceeded quota: small, requested: limits.memory=608Mi", True),
    ("failed_mount", LATE, QUIET, Cause.MOUNT, 'for volume "secrets" : secret "gone" not found.', True),
    ("courier_crashes", LATE, QUIET, Cause.START_TIMEOUT, "did not start in time: the courier does not start:", True),
]


def seen(name: str) -> Observed:
    return diagnose(**json.loads((RECORDED / f"{name}.json").read_text()))


@pytest.mark.parametrize(
    ("name", "intent", "report", "cause", "words", "safe"),
    TABLE,
    ids=[f"{row[0]}-{row[1] or 'unasked'}" for row in TABLE],
)
def test_a_verdict(name: str, intent: Intent, report: Report, cause: Cause, words: str, safe: bool) -> None:
    verdict = judge(seen(name), intent, report, by="ada")
    assert (verdict.cause, verdict.retry_safe) == (cause, safe)
    assert words in verdict.words
    assert verdict.words.endswith(ADVICE[cause].next)
    assert ".." not in verdict.words and " ." not in verdict.words


def test_every_recording_has_a_verdict() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {row[0] for row in TABLE}


def test_a_quota_is_no_failure() -> None:
    verdict = judge(seen("quota"), LATE)
    assert not verdict.failure and not verdict.retries


def test_an_agents_exit_code_is_the_runtimes_before_the_couriers() -> None:
    assert judge(seen("agent_error"), Intent.NONE, Report(exit_code=9)).exit_code == 3
    assert seen("running").phase is Phase.RUNNING
    assert judge(seen("running"), Intent.NONE, Report(exit_code=9)).exit_code == 9
