"""Ends that only a cluster has: each has a verdict that says in words what happened."""

import re

from testbed.stack import Stack
from testbed.waiting import wait_for
from tests.whole.conftest import PRODUCTION

pytestmark = list(PRODUCTION)


def verdict(stack: Stack, message: str, profile: str, group: str = "", **fields: object) -> dict[str, object]:
    """The verdict on the first run of a session; there is no second one."""
    session = stack.open(message, group, stack.profile(profile, **fields))
    run: dict[str, object] = stack.wait_verdict(session, 120)
    stack.post(f"sessions/{session}/stop")
    return run


def test_out_of_memory_names_the_limit(production: Stack) -> None:
    run = verdict(production, "/eat 500", "hungry", memory_mib=64)
    assert run["verdict"] == "oom"
    # There is no peak where the kernel kills the whole container, as version 2 of cgroups has it do.
    assert re.search(r"more memory than its limit of 64Mi( \(peak \d+Mi\))?\.", str(run["verdict_words"]))


def test_an_image_that_is_not_there(production: Stack) -> None:
    run = verdict(production, "hi", "imageless", image="registry.local/no-such-image:1")
    assert run["verdict"] == "image_pull" and "no-such-image" in str(run["verdict_words"])


def test_an_agent_that_fails_tells_its_exit_code(production: Stack) -> None:
    run = verdict(production, "/exit 3", "leaver")
    assert (run["verdict"], run["exit_code"]) == ("agent_error", 3)
    assert "exit code 3" in str(run["verdict_words"])


def test_the_clusters_own_deadline(production: Stack) -> None:
    run = verdict(production, "/silent 60", "late", deadline_seconds=5)
    assert run["verdict"] == "deadline" and "time limit" in str(run["verdict_words"])


def test_a_pod_that_somebody_evicted(production: Stack) -> None:
    session = production.open("/silent 60", profile=production.profile("evictable"))
    production.wait_state(session, "working")
    production.python(
        "from kubernetes import client, config\n"
        "config.load_kube_config()\n"
        "api = client.CoreV1Api()\n"
        f"pod = api.list_pod_for_all_namespaces(label_selector='berth/session={session}').items[0].metadata\n"
        "body = client.V1Eviction(metadata=client.V1ObjectMeta(name=pod.name))\n"
        "api.create_namespaced_pod_eviction(pod.name, pod.namespace, body)"
    )
    run = production.wait_verdict(session, 120)
    assert run["verdict"] == "evicted" and "evicting" in run["verdict_words"]
    production.post(f"sessions/{session}/stop")


def test_a_pod_that_no_node_can_take(production: Stack) -> None:
    group = production.group(quota_cpu_millis=2_000_000)
    run = verdict(production, "hi", "greedy", group, cpu_millis=900_000, start_seconds=8)
    assert run["verdict"] == "unschedulable" and "cpu" in str(run["verdict_words"]).lower()


def test_while_no_node_can_take_it_the_page_says_so(production: Stack) -> None:
    profile = production.profile("patiently-greedy", cpu_millis=900_000)
    session = production.open("hi", production.group(quota_cpu_millis=2_000_000), profile)
    wait_for(lambda: "cpu" in production.session(session)["reason"].lower(), 60, "the scheduler's words")
    assert production.session(session)["state"] == "starting"
    production.post(f"sessions/{session}/stop")
    assert production.wait_verdict(session)["verdict"] == "stopped"


def test_a_run_that_asks_for_more_than_its_groups_quota_is_refused(production: Stack) -> None:
    run = verdict(production, "hi", "oversized", production.group(quota_cpu_millis=4000), cpu_millis=8000)
    assert run["verdict"] == "rejected" and "maximum cpu usage per Container is 4" in str(run["verdict_words"])


def test_a_secret_that_is_not_there_is_named(production: Stack) -> None:
    profile = production.profile("keyless", secrets={"key": "ref:gone"})
    production.secret("gone", "env", "BERTH_SECRET_GONE", profile)
    session = production.open("hi", profile=profile)
    run = production.wait_verdict(session)
    assert run["verdict"] == "mount" and "BERTH_SECRET_GONE" in str(run["verdict_words"])
    production.post(f"sessions/{session}/stop")


def test_what_admission_rejects_says_why(production: Stack) -> None:
    group = production.group()
    namespace = f"berth-{group}"
    first = production.open("hello", group)
    production.wait_result(first)
    production.post(f"sessions/{first}/stop")
    production.wait_verdict(first)
    limit = {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]},
    }
    production.python(
        "from kubernetes import client, config\n"
        "config.load_kube_config()\n"
        f"client.CoreV1Api().create_namespaced_limit_range({namespace!r}, {limit!r})"
    )
    session = production.open("hello", group)
    run = production.wait_verdict(session)
    assert run["verdict"] == "rejected" and "maximum memory usage" in run["verdict_words"]
