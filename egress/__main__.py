"""`python -m egress`: the egress proxy. All settings come by the environment (docs/egress.md)."""

import asyncio
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from egress.log import log
from egress.server import Server
from egress.settings import Settings, read_settings

RESOLVERS = 32  # names looked up at a time: a slow name server must not hold up all others


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(RESOLVERS, "resolve"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(lambda _, context: log("failed", work="loop", problem=str(context.get("message"))))
    server = Server(settings)
    await server.start()
    await stop.wait()
    await server.stop()


def main() -> int:
    """Run the proxy; returns its exit status: 0, or 2 for wrong settings."""
    try:
        settings = read_settings()
        settings.token_file.read_text()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # a tunnel takes two descriptors
        asyncio.run(serve(settings))
    except (KeyError, ValueError, OSError) as error:
        log("can't start", problem=f"{type(error).__name__}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
