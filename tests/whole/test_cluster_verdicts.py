"""Ends that only a cluster has: each has a verdict that says in words what happened."""

from tests.stack import Stack
from tests.whole.conftest import PRODUCTION

pytestmark = list(PRODUCTION)


def verdict(stack: Stack, message: str, profile: str, **fields: object) -> dict[str, object]:
    stack.profile(profile, **fields)
    return stack.wait_verdict(stack.open(message, profile=profile), 120)


def test_out_of_memory_names_the_limit(production: Stack) -> None:
    session = production.open("/eat 500", profile=production.profile("hungry", memory_mib=64))
    run = production.wait_verdict(session)
    assert run["verdict"] == "oom" and "memory" in run["verdict_words"]
    assert production.session(session)["state"] == "failed"


def test_an_image_that_is_not_there(production: Stack) -> None:
    run = verdict(production, "hi", "imageless", image="registry.local/no-such-image:1")
    assert run["verdict"] == "image_pull" and "no-such-image" in str(run["verdict_words"])


def test_a_pod_that_no_node_can_take(production: Stack) -> None:
    run = verdict(production, "hi", "greedy", cpu_millis=900_000, start_seconds=8)
    assert run["verdict"] == "unschedulable" and "cpu" in str(run["verdict_words"]).lower()


def test_while_no_node_can_take_it_the_page_says_so(production: Stack) -> None:
    profile = production.profile("patiently-greedy", cpu_millis=900_000)
    session = production.open("hi", profile=profile)
    from tests.waiting import wait_for

    wait_for(lambda: "cpu" in production.session(session)["reason"].lower(), 60, "the scheduler's words")
    assert production.session(session)["state"] == "starting"
    production.post(f"sessions/{session}/stop")
    assert production.wait_verdict(session)["verdict"] == "stopped"


def test_a_secret_that_is_not_there_is_named(production: Stack) -> None:
    run = verdict(production, "hi", "keyless", secrets={"key": "env:NO_SUCH_VARIABLE"})
    assert run["verdict"] == "mount" and "NO_SUCH_VARIABLE" in str(run["verdict_words"])


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
