"""The images that cluster tests run, built from this checkout onto the test cluster's node, once a session."""

import os
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@cache
def build(name: str) -> str:
    """Build `images/<name>/Dockerfile` onto the node and return the image's name. Layers are cached by the builder."""
    command = [os.environ["CLUSTER_TOOL"], "build", ".", "-t", name, "--file", f"images/{name}/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise AssertionError(f"building {name}: {done.stderr[-4000:]}")
    return f"registry.local/{name}:latest"
