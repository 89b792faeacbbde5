"""`python -m courier [--exit-when-done] [--drain-seconds N]`; everything else comes by the environment.

--exit-when-done: end by itself when the agent has ended and all is stored (without it, only on SIGTERM: a sidecar that
ends would be started again). --drain-seconds: how long to go on uploading at the end (45).
"""

import sys

from courier.log import bind, log
from courier.pipes import Pipes
from courier.settings import read_settings


def main(arguments: list[str]) -> int:
    """Run the courier; returns its exit status: 0, or 2 for wrong settings."""
    try:
        settings = read_settings()
        while arguments:
            option = arguments.pop(0)
            if option == "--exit-when-done":
                settings = settings._replace(exit_when_done=True)
            elif option == "--drain-seconds" and arguments:
                settings = settings._replace(drain_seconds=float(arguments.pop(0)))
            else:
                raise ValueError(f"unknown option {option}")
    except (KeyError, ValueError) as error:
        log("wrong settings", problem=str(error))
        return 2
    bind(run=settings.run, session=settings.session)
    pipes = Pipes(settings.pipes)  # first of all, since the agent's wrapper waits for them
    from courier.courier import Courier

    Courier(settings, pipes).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
