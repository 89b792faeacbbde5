"""`python -m bench [NAME …]` (`make bench`): measures Berth on a real cluster, PostgreSQL and Redis.

Names: cold_start, follow_up, relay, ingest, watchers, courier_cost, queue, reconcile, recovery, admin_list, egress,
redaction, markdown; without one, all of them, half an hour. `soak` takes a quarter of an hour more, `hostile` and
`starts` minutes; these are run only when they are named. Each is a module here, whose docstring says what it measures
and how; each starts a Berth of its own and removes it. Wants the variables of tests/conftest.py (TEST_DATABASE_URL,
TEST_REDIS_URL, KUBECONFIG, TEST_NODE_IP; CLUSTER_TOOL for `soak`), the images of the courier and the workbench on the
node (COURIER_IMAGE names another), and a machine that does nothing else. The status is 0 unless something broke: a
figure that misses its target is told, not punished. Results stand in bench/results.json, and docs/performance.md is
made from them.
"""

import importlib
import signal
import sys
import traceback

from bench import report

NAMES = (
    "cold_start", "follow_up", "relay", "ingest", "watchers", "courier_cost",
    "queue", "reconcile", "recovery", "admin_list", "egress", "redaction", "markdown",
)  # fmt: skip
BY_HAND = ("soak", "hostile", "starts")


def main(names: list[str]) -> int:
    """Run the benches and write the report; returns the exit status."""
    known = (*NAMES, *BY_HAND)
    unknown = set(names) - set(known)
    if unknown:
        print(f"There is no bench {', '.join(sorted(unknown))}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up, as after Ctrl-C
    broken = 0
    for name in names or NAMES:
        module = importlib.import_module(f"bench.{name}")
        print(f"{name} …", flush=True)
        load = report.load()
        try:
            result = report.keep(name, module.run(), load)
        except Exception:
            traceback.print_exc()
            broken = 1
            continue
        print(report.text(result), flush=True)
    report.write({name: str(importlib.import_module(f"bench.{name}").__doc__) for name in known})
    return broken


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
