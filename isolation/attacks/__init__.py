"""What the hostile agent tries: by kind, a function that takes a check's parameters.

It returns `Success` where it got through; raises `Blocked`, or the OSError of the kernel's own no, where it did
not. Anything else that it raises says that the attempt itself went wrong.
"""

from collections.abc import Callable
from typing import Any

from isolation.attacks import broker, control_plane, files, kernel, network, proxy, resources

ATTACKS: dict[str, Callable[..., Any]] = {
    **network.ATTACKS,
    **control_plane.ATTACKS,
    **broker.ATTACKS,
    **proxy.ATTACKS,
    **files.ATTACKS,
    **kernel.ATTACKS,
    **resources.ATTACKS,
}
# These disturb each other, or the node, if they run at the same time; the others may run side by side.
ALONE = frozenset({*resources.ATTACKS, "large_body", "unfinished"})
