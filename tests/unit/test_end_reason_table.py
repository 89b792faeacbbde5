"""Verdicts on what a real cluster was seen to do: from recorded objects to the words that people read.

What the objects alone mean is tested in tests/runtime/test_diagnose.py; here they meet what Berth asked for and what
the courier reported.
"""

import json
from pathlib import Path

import pytest

from k8s_adapter.diagnose import diagnose
from runtimes.base import Observed, Phase
from sessions.choices import EndReason as End
from sessions.choices import Intent
from sessions.lifecycle.end_reasons import ADVICE, Report, verdict

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "kubernetes"
UNASKED = Intent.NONE
QUIET = Report()
PEAK = Report(exit_code=137, peak_bytes=64 * 1024**2)
MIDWAY = Report(unanswered=True)

TABLE = [
    # recording, what Berth asked for, what the courier told, end reason, words, whether a retry is safe
    ("completed", UNASKED, QUIET, End.COMPLETED, "The agent finished.", True),
    ("completed", Intent.CLOSE, QUIET, End.CLOSED, "Closed by ada as asked.", True),
    ("completed", Intent.IDLE, QUIET, End.IDLE, "Closed after waiting long enough for a follow-up.", True),
    ("completed", Intent.PREEMPT, QUIET, End.PREEMPTED, "Closed while it had nothing to do,", True),
    ("agent_error", UNASKED, QUIET, End.AGENT_ERROR, "The agent ended with exit code 3.", False),
    ("agent_error", Intent.IDLE, QUIET, End.IDLE, "Closed after waiting long enough", True),
    ("agent_error", Intent.IDLE, MIDWAY, End.AGENT_ERROR, "The agent ended with exit code 3.", False),
    ("no_such_command", UNASKED, QUIET, End.AGENT_ERROR, "The agent ended with exit code 127.", False),
    ("no_shell", UNASKED, QUIET, End.REJECTED, 'exec: "sh": executable file not found', True),
    ("oom", UNASKED, PEAK, End.OOM, "it used more memory than its limit of 64Mi (peak 64Mi).", False),
    ("oom", UNASKED, QUIET, End.OOM, "it used more memory than its limit of 64Mi.", False),
    ("oom", Intent.IDLE, QUIET, End.OOM, "it used more memory than its limit of 64Mi.", False),
    ("oom", Intent.STOP, PEAK, End.STOPPED, "Stopped by ada.", True),
    ("stopped", Intent.STOP, QUIET, End.STOPPED, "Stopped by ada.", True),
    ("stopped", Intent.DEADLINE, QUIET, End.DEADLINE, "Ended at its time limit.", False),
    ("stopped", Intent.TURN_TIMEOUT, QUIET, End.TURN_TIMEOUT, "worked too long without a word.", False),
    ("stopped", Intent.HUNG, QUIET, End.HUNG, "its courier fell silent while the agent's process lived.", False),
    ("deadline", UNASKED, QUIET, End.DEADLINE, "Ended at its time limit.", False),
    (
        "evicted",
        UNASKED,
        QUIET,
        End.EVICTED,
        'Usage of EmptyDir volume "tmp" exceeds the limit "16Mi".',
        False,
    ),
    ("evicted", Intent.IDLE, MIDWAY, End.EVICTED, "The cluster evicted it: ", False),
    ("evicted_by_api", UNASKED, QUIET, End.EVICTED, "The cluster evicted it: Eviction API: evicting.", False),
    ("preempted_by_priority", UNASKED, QUIET, End.EVICTED, "accommodate a higher priority pod.", False),
    ("node_lost", UNASKED, QUIET, End.NODE_LOST, "Its node was lost: Taint manager: deleting due to", False),
    ("node_came_back", UNASKED, QUIET, End.NODE_LOST, "Its node was lost: Taint manager: deleting", False),
    ("node_silent", Intent.HUNG, QUIET, End.HUNG, "its courier fell silent", False),
    (
        "vanished",
        UNASKED,
        QUIET,
        End.VANISHED,
        "removed from outside: somebody deleted the run's pod.",
        False,
    ),
    ("namespace_deleted", UNASKED, QUIET, End.VANISHED, "removed from outside: somebody deleted", False),
    ("namespace_terminating", Intent.STOP, QUIET, End.STOPPED, "Stopped by ada.", True),
    ("deleted_while_running", Intent.STOP, QUIET, End.STOPPED, "Stopped by ada.", True),
    ("running", Intent.HUNG, QUIET, End.HUNG, "its courier fell silent", False),
    (
        "image_pull",
        UNASKED,
        QUIET,
        End.IMAGE_PULL,
        'failed to resolve reference "registry.local/no-such-image:1"',
        True,
    ),
    (
        "invalid_image_name",
        UNASKED,
        QUIET,
        End.IMAGE_PULL,
        "repository name (Not A Name) must be lowercase.",
        True,
    ),
    (
        "unschedulable",
        UNASKED,
        QUIET,
        End.UNSCHEDULABLE,
        "0/1 nodes are available: 1 Insufficient cpu.",
        True,
    ),
    ("kubelet_refused", UNASKED, QUIET, End.UNSCHEDULABLE, "Node didn't have enough resource: cpu,", True),
    ("pod_security", UNASKED, QUIET, End.REJECTED, 'violates PodSecurity "restricted', True),
    ("limit_range", UNASKED, QUIET, End.REJECTED, "maximum memory usage per Container is 100Mi", True),
    (
        "admission_policy",
        UNASKED,
        QUIET,
        End.REJECTED,
        "denied request: every pod needs a label cost-centre.",
        True,
    ),
    (
        "root_image",
        UNASKED,
        QUIET,
        End.REJECTED,
        "container has runAsNonRoot and image will run as root",
        True,
    ),
    ("quota", UNASKED, QUIET, End.QUOTA, "exceeded quota: small, requested: limits.memory=608Mi", True),
    ("failed_mount", UNASKED, QUIET, End.MOUNT, 'for volume "secrets" : secret "gone" not found.', True),
    (
        "courier_crashes",
        UNASKED,
        QUIET,
        End.START_TIMEOUT,
        "did not start in time: the courier does not start:",
        True,
    ),
]


def seen(name: str) -> Observed:
    return diagnose(**json.loads((RECORDED / f"{name}.json").read_text()))


@pytest.mark.parametrize(
    ("name", "intent", "report", "reason", "words", "safe"),
    TABLE,
    ids=[f"{row[0]}-{row[1] or 'unasked'}" for row in TABLE],
)
def test_a_verdict(name: str, intent: Intent, report: Report, reason: End, words: str, safe: bool) -> None:
    found = verdict(intent, seen(name), report, by="ada")
    assert (found.reason, found.retry_safe) == (reason, safe)
    assert words in found.message
    assert found.message.endswith(ADVICE[reason].next)
    assert ".." not in found.message and " ." not in found.message


def test_every_recording_has_a_verdict() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {row[0] for row in TABLE}


def test_a_quota_is_no_failure() -> None:
    found = verdict(Intent.NONE, seen("quota"))
    assert not found.failure and not found.retries


def test_an_agents_exit_code_is_the_runtimes_before_the_couriers() -> None:
    assert verdict(Intent.NONE, seen("agent_error"), Report(exit_code=9)).exit_code == 3
    assert seen("running").phase is Phase.RUNNING
    assert verdict(Intent.NONE, seen("running"), Report(exit_code=9)).exit_code == 9
