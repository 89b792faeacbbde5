"""The objects made on a cluster, compared whole: read the YAML here to know what Berth asks of a cluster."""

import base64
from dataclasses import replace
from typing import Any

import pytest
import yaml

from k8s_adapter import manifests, names
from k8s_adapter.config import KubernetesConfig
from k8s_adapter.pod import TERMINATION_LOG
from runtimes.base import EgressAccess, PodOptions, Quota, Resources, RunRef, RunSpec, SecretFile
from runtimes.names import spec_hash

REF = RunRef(
    run="0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01",
    session="5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02",
    group="31d4c2b0-1111-4222-8333-944455556666",
    slug="blue-team",
)
SPEC = RunSpec(
    ref=REF,
    number=3,
    image="agents/claude:2",
    command=("claude", "--verbose"),
    contract="claude",
    courier_url="https://berth.example",
    token="secret-token",
    environment={"COLOUR": "$(blue)"},
    resume="abc",
    state_folder="/home/node/.claude",
    resources=Resources(cpu_millis=500, memory_mib=512, scratch_mib=64),
    secrets=(SecretFile("api-key", "kubernetes:keys/anthropic"), SecretFile("other", "env:OTHER")),
    deadline_seconds=600,
)
CONFIG = KubernetesConfig(installation="main", courier_image="courier:1")

SECRET = """
apiVersion: v1
kind: Secret
metadata:
  name: berth-run-0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
  namespace: berth-blue-team
  labels:
    app.kubernetes.io/managed-by: berth
    berth/installation: main
    berth/group: 31d4c2b0-1111-4222-8333-944455556666
    berth/slug: blue-team
    berth/session: 5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02
    berth/run: 0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
  annotations: {berth/spec-hash: SPEC-HASH}
type: Opaque
data:
  token: c2VjcmV0LXRva2Vu
  file.other: AAE=
"""

JOB = """
apiVersion: batch/v1
kind: Job
metadata:
  name: berth-run-0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
  namespace: berth-blue-team
  labels:
    app.kubernetes.io/managed-by: berth
    berth/installation: main
    berth/group: 31d4c2b0-1111-4222-8333-944455556666
    berth/slug: blue-team
    berth/session: 5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02
    berth/run: 0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
  annotations: {berth/spec-hash: SPEC-HASH}
spec:
  backoffLimit: 0
  podReplacementPolicy: Failed
  activeDeadlineSeconds: 600
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels:
        app.kubernetes.io/managed-by: berth
        berth/installation: main
        berth/group: 31d4c2b0-1111-4222-8333-944455556666
        berth/slug: blue-team
        berth/session: 5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02
        berth/run: 0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      enableServiceLinks: false
      shareProcessNamespace: false
      terminationGracePeriodSeconds: 60
      securityContext:
        runAsNonRoot: true
        seccompProfile: {type: RuntimeDefault}
        runAsUser: 1000
        runAsGroup: 1000
        fsGroup: 1000
        fsGroupChangePolicy: OnRootMismatch
      initContainers:
      - name: courier
        image: courier:1
        imagePullPolicy: IfNotPresent
        restartPolicy: Always
        env:
        - {name: BERTH_URL, value: 'https://berth.example'}
        - {name: BERTH_RUN, value: 0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01}
        - {name: BERTH_SESSION, value: 5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02}
        - {name: BERTH_GROUP, value: blue-team}
        - {name: BERTH_CONTRACT, value: claude}
        - {name: BERTH_RESUME, value: abc}
        - {name: BERTH_TOKEN_FILE, value: /var/lib/berth/token/token}
        - {name: BERTH_PIPES, value: /run/berth}
        - {name: BERTH_JOURNAL, value: /var/lib/berth/journal}
        - {name: BERTH_IPC, value: /workspace/ipc}
        - {name: BERTH_SECRETS, value: /var/secrets}
        resources:
          requests: {cpu: 10m, memory: 32Mi, ephemeral-storage: 16Mi}
          limits: {memory: 96Mi, ephemeral-storage: 128Mi}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop:
            - ALL
          runAsUser: 1001
        volumeMounts:
        - {name: pipes, mountPath: /run/berth}
        - {name: token, mountPath: /var/lib/berth/token, readOnly: true}
        - {name: workspace, mountPath: /var/lib/berth/journal, subPath: journal}
        - name: workspace
          mountPath: /workspace/ipc
          subPath: ipc/5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02
        - {name: secrets, mountPath: /var/secrets, readOnly: true}
      containers:
      - name: agent
        image: agents/claude:2
        imagePullPolicy: IfNotPresent
        command: COMMAND
        workingDir: /workspace/group
        env:
        - {name: PYTHONUSERBASE, value: /home/node/.local}
        - {name: COLOUR, value: $$(blue)}
        - {name: HOME, value: /home/node}
        - {name: BERTH_PIPES, value: /run/berth}
        - {name: BERTH_STOP_GRACE, value: '10'}
        - {name: BERTH_RUN, value: 0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01}
        - {name: BERTH_SESSION, value: 5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02}
        - {name: BERTH_GROUP, value: blue-team}
        - {name: BERTH_WORKSPACE, value: /workspace/group}
        - {name: BERTH_IPC, value: /workspace/ipc}
        - {name: BERTH_STATE, value: /home/node/.claude}
        - {name: BERTH_SECRETS, value: /var/secrets}
        resources:
          requests: {cpu: 50m, memory: 512Mi, ephemeral-storage: 16Mi}
          limits: {cpu: 500m, memory: 512Mi, ephemeral-storage: 128Mi}
        terminationMessagePath: TERMINATION_LOG
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities:
            drop:
            - ALL
        volumeMounts:
        - {name: pipes, mountPath: /run/berth}
        - {name: workspace, mountPath: /workspace/group, subPath: group}
        - name: workspace
          mountPath: /workspace/ipc
          subPath: ipc/5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02
        - {name: workspace, mountPath: /workspace/checkpoints, subPath: checkpoints}
        - {name: home, mountPath: /home/node}
        - name: workspace
          mountPath: /home/node/.claude
          subPath: state/5f0c9a6e-98f5-4d9e-8a35-2f6e1b1c7a02
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: secrets, mountPath: /var/secrets, readOnly: true}
      volumes:
      - name: workspace
        persistentVolumeClaim: {claimName: berth-workspace-blue-team}
      - name: token
        secret:
          secretName: berth-run-0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
          items:
          - {key: token, path: token}
          defaultMode: 0400
      - name: pipes
        emptyDir: {medium: Memory, sizeLimit: 8Mi}
      - name: tmp
        emptyDir: {medium: Memory, sizeLimit: 64Mi}
      - name: shm
        emptyDir: {medium: Memory, sizeLimit: 64Mi}
      - name: home
        emptyDir: {medium: Memory, sizeLimit: 64Mi}
      - name: secrets
        projected:
          sources:
          - secret:
              name: keys
              items:
              - {key: anthropic, path: api-key}
          - secret:
              name: berth-run-0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01
              items:
              - {key: file.other, path: other}
          defaultMode: 0400
      dnsPolicy: None
      dnsConfig: {nameservers: [127.0.0.1]}
"""


def loaded(text: str) -> Any:
    return yaml.safe_load(text.replace("SPEC-HASH", spec_hash(SPEC)))


def pod(spec: RunSpec, config: KubernetesConfig = CONFIG) -> Any:
    return manifests.make_job(spec, config)["spec"]["template"]["spec"]


def test_the_secret() -> None:
    assert manifests.make_secret(SPEC, {"other": b"\x00\x01"}, CONFIG) == loaded(SECRET)


def test_the_job() -> None:
    job = manifests.make_job(SPEC, CONFIG)
    agent = job["spec"]["template"]["spec"]["containers"][0]
    agent["command"] = "COMMAND"  # below
    assert job == loaded(JOB.replace("TERMINATION_LOG", TERMINATION_LOG))


def test_the_agents_command_is_wrapped_and_its_dollars_are_its_own() -> None:
    """The kubelet turns $$ into $, and $(NAME) into a variable, before the shell sees either."""
    command = pod(replace(SPEC, command=("echo", "$$ $(HOME)")))["containers"][0]["command"]
    assert command[:2] == ["sh", "-c"]
    assert command[3:] == ["berth", "echo", "$$$$ $$(HOME)", "--resume", "abc"]
    assert all(text.count("$") % 2 == 0 for text in command)


def test_the_agent_sees_neither_token_nor_journal() -> None:
    agent = pod(SPEC)["containers"][0]
    assert "token" not in str(agent["volumeMounts"])
    assert "journal" not in str(agent["volumeMounts"])
    assert "TOKEN" not in str(agent["env"])
    assert SPEC.token not in str(manifests.make_job(SPEC, CONFIG))


@pytest.mark.parametrize(
    ("state_folder", "home"),
    [
        ("", "/home/agent"),
        ("/home/node/.claude", "/home/node"),
        ("/home/node/a/b", "/home/node"),
        ("/home/node", "/home/node"),
        ("/state", "/home/agent"),
    ],
)
def test_the_home_is_the_one_that_the_state_folder_lies_in(state_folder: str, home: str) -> None:
    made = pod(replace(SPEC, state_folder=state_folder))
    mounts = {mount["mountPath"]: mount for mount in made["containers"][0]["volumeMounts"]}
    assert {"name": "HOME", "value": home} in made["containers"][0]["env"]
    assert home in mounts
    if state_folder:
        assert mounts[state_folder]["subPath"] == f"state/{REF.session}"
    used = {mount["name"] for each in made["initContainers"] + made["containers"] for mount in each["volumeMounts"]}
    assert used == {volume["name"] for volume in made["volumes"]}


def test_without_secrets_nothing_is_mounted() -> None:
    assert "/var/secrets" not in str(pod(replace(SPEC, secrets=()))["containers"][0]["volumeMounts"])


def test_openshift_chooses_the_user() -> None:
    made = pod(SPEC, replace(CONFIG, openshift=True))
    assert made["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert "runAsUser" not in str(made) and "fsGroup" not in str(made)


def test_a_quota_that_changes_leaves_a_run_what_it_was() -> None:
    assert spec_hash(replace(SPEC, quota=Quota(cpu_millis=1))) == spec_hash(SPEC)
    assert spec_hash(replace(SPEC, pod=PodOptions(dns=True))) != spec_hash(SPEC)


def test_names_that_a_pod_needs_stand_in_its_hosts_file() -> None:
    made = manifests.make_job(SPEC, CONFIG, (("10.0.0.1", "berth.example"),))["spec"]["template"]["spec"]
    assert made["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["berth.example"]}]
    assert made["dnsPolicy"] == "None"


def test_a_profile_may_open_dns() -> None:
    template = manifests.make_job(replace(SPEC, pod=PodOptions(dns=True)), CONFIG)["spec"]["template"]
    assert template["metadata"]["labels"]["berth/dns"] == "open"
    assert "dnsPolicy" not in template["spec"]  # ClusterFirst
    assert "berth/dns" not in str(manifests.make_job(SPEC, CONFIG))


def test_a_profile_chooses_its_nodes_and_its_runtime_class() -> None:
    options = PodOptions("gvisor", {"pool": "agents"}, ({"key": "agents", "operator": "Exists"},))
    made = pod(replace(SPEC, pod=options))
    assert made["runtimeClassName"] == "gvisor"
    assert made["nodeSelector"] == {"pool": "agents"}
    assert made["tolerations"] == [{"key": "agents", "operator": "Exists"}]


def test_the_way_out_comes_from_the_secret() -> None:
    spec = replace(SPEC, egress=EgressAccess("http://berth-egress.berth.svc:3128", "p@ss/word"))
    environment = {each["name"]: each for each in pod(spec)["containers"][0]["env"]}
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        assert environment[name]["valueFrom"] == {
            "secretKeyRef": {"name": names.secret(REF.run), "key": names.EGRESS_KEY}
        }
    assert environment["NODE_USE_ENV_PROXY"]["value"] == "1"
    assert (
        environment["no_proxy"]["value"] == environment["NO_PROXY"]["value"] == "localhost,127.0.0.1,::1,berth.example"
    )
    assert "p@ss" not in str(manifests.make_job(spec, CONFIG)) and "p%40ss" not in str(manifests.make_job(spec, CONFIG))
    data = manifests.make_secret(spec, {}, CONFIG)["data"]
    url = f"http://{REF.run}:p%40ss%2Fword@berth-egress.berth.svc:3128"
    assert base64.b64decode(data[names.EGRESS_KEY]).decode() == url
    assert "PROXY" not in str(pod(SPEC))


def test_the_courier_does_not_get_the_way_out() -> None:
    spec = replace(SPEC, egress=EgressAccess("http://berth-egress.berth.svc:3128", "word"))
    made = pod(spec)
    assert "PROXY" not in str(made["initContainers"])
    (token,) = (volume["secret"] for volume in made["volumes"] if volume["name"] == "token")
    assert [item["path"] for item in token["items"]] == ["token", "egress"]  # to be taken out of what the agent says
    assert "token" not in [mount["name"] for mount in made["containers"][0]["volumeMounts"]]


def test_a_long_stop_grace_leaves_the_courier_its_time() -> None:
    assert pod(replace(SPEC, stop_grace_seconds=300))["terminationGracePeriodSeconds"] == 330


def test_only_the_main_groups_courier_is_told_that_it_is() -> None:
    told = {main: pod(replace(SPEC, main=main)) for main in (False, True)}
    assert {"name": "BERTH_MAIN", "value": "1"} in told[True]["initContainers"][0]["env"]
    assert "BERTH_MAIN" not in str(told[False])
    assert "BERTH_MAIN" not in str(told[True]["containers"])


def test_the_job_becomes_the_secrets_owner() -> None:
    job = {"metadata": {"name": "berth-run-1", "uid": "u"}}
    assert manifests.owner_patch(job) == {
        "metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "berth-run-1", "uid": "u"}]}
    }
