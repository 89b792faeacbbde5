"""What a hostile agent tries in its own container: files, the kernel, more than its share. Pure."""

from collections.abc import Iterator
from typing import Any

from isolation.choices import Expected
from isolation.environment import Environment

Fields = dict[str, Any]
TOKEN, JOURNAL = "/var/lib/berth/token", "/var/lib/berth/journal"  # where the courier has them, in its container
# What a pod without care can see of its node.
NODE = ["/var/lib/kubelet", "/run/containerd/containerd.sock", "/var/run/docker.sock", "/host", "/rootfs", "/mounts"]
FORBIDDEN = ["/", "/etc", "/usr/bin", "/opt/berth", "/var/lib", "/workspace", "/var/secrets"]
KERNEL = {
    "become_root": "Take root's ids",
    "set_uid_programs": "Programs that run as root (su, sudo …)",
    "capabilities": "Take capabilities",
    "namespaces": "Namespaces of its own (unshare)",
    "mounts": "mount, chroot, setns, mknod",
    "knobs": "The node's kernel settings, disks and memory",
    "file_handles": "Files by their inodes, past all mounts",
    "trace": "ptrace on the courier, and its memory",
}


def files(environment: Environment) -> Iterator[Fields]:
    """Files that are not the agent's, and those that it may only read."""
    volume = [environment.neighbour.volume] if environment.neighbour.volume else []
    yield _check("node-files", "The node's files and sockets", "read", paths=[*NODE, *volume])
    yield _check("journal", "The courier's journal", "read", paths=[JOURNAL, "/var/lib/berth"])
    yield _check(
        "courier-token",
        "The courier's token, where it is mounted and by any path in /proc",
        "courier_token",
        paths=[f"{TOKEN}/token"],
    )
    links = [f"{TOKEN}/token", JOURNAL, "/etc/shadow", *NODE, *volume]
    steps = ["../../journal", "../journal", "../../../../var/lib/berth/token/token", "../group/../../journal"]
    yield _check(
        "symlinks",
        "Out of the workspace by symlinks and ..",
        "symlinks",
        folder=environment.workspace,
        targets=[*links, *steps, *(f"../../../../../..{each}" for each in links)],
    )
    yield _check("node-disk", "The node's disk, besides its volume", "node_disk", own=["/workspace"])
    yield _check("unix-sockets", "The machine's services, by their sockets", "unix_sockets", own=["/workspace"])
    yield _check("read-only-root", "Write outside its own folders", "write", paths=FORBIDDEN)
    yield _check(
        "read-only-mount", "Write to a read-only mount", "write", paths=[f"/workspace/extra/{environment.mount}"]
    ) | {"untested": "" if environment.mount else "it was given none"}


def kernel() -> Iterator[Fields]:
    """More rights than a process without any has."""
    yield _check("confined", "What the kernel says of it", "confined") | {"expected": Expected.SUCCEEDED}
    for attack, title in KERNEL.items():
        yield _check(attack.replace("_", "-"), title, attack)


def resources(environment: Environment) -> Iterator[Fields]:
    """More than its share. These run one at a time, and printing without end comes last."""
    memory = _check("memory", "A limit of memory", "limits", memory_mib=environment.memory_mib)
    yield memory | {"expected": Expected.SUCCEEDED}
    for name, path in {"tmp": "/tmp", "shm": "/dev/shm", "home": "~"}.items():
        yield _check(f"fill-{name}", f"Fill {path if path != '~' else 'its home'} (at most 600 MiB)", "fill", path=path)
    workspace, size = environment.workspace, environment.storage_gib
    yield _check("volume", "A workspace of more than its size", "volume", path=workspace, claimed_gib=size)
    yield _check("tasks", "As many tasks as it likes (at most 2,000)", "tasks")
    url = environment.control_plane
    yield _check("large-body", "A large body for the control plane, without a token", "large_body", url=url)
    yield _check("unfinished", "Many requests to the control plane that are never finished", "unfinished", url=url)
    yield _check("flood", "Print as fast as it can, for 3 s", "flood") | {"expected": Expected.HARMLESS}
    # Last: a courier that chokes on them hears of nothing afterwards.
    yield _check("odd-lines", "Print lines that no contract knows", "odd_lines") | {"expected": Expected.SUCCEEDED}


def _check(name: str, title: str, attack: str, **parameters: Any) -> Fields:
    return {"name": name, "title": title, "attack": attack, "parameters": parameters}
