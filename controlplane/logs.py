"""Structured logs: one line an event, with the ids of the session and run it speaks of."""

import logging

import structlog


def configure(form: str, level: str) -> None:
    """Send structlog and the standard library's loggers to stderr, as `text` for people or `json` for machines."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    final: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        renderer,
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # One line for every task, request and frame says nothing that our own lines don't.
    for noisy in (
        "django-q",
        "daphne",
        "daphne.server",
        "django.channels.server",
        "urllib3",
        "kubernetes",
        "asyncio",
        "axes",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
