"""The admin of runs: the list, and a page that tells how a run started, why it ended, and of what it was made."""

import json
from typing import Any

import structlog
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesCheckboxFilter, ChoicesDropdownFilter
from unfold.decorators import display

from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import DetailPage
from runtimes.base import RuntimeFault
from sessions.admin.bases import SessionRowAdmin
from sessions.admin.start_timeline import Bar, bars
from sessions.choices import Intent, RunState
from sessions.lifecycle import run_archive, runtime_factory
from sessions.lifecycle.end_reasons import ADVICE
from sessions.models import Run, RunRecord
from sessions.timeouts import within

log = structlog.get_logger(__name__)

DESCRIBE_SECONDS = 3.0  # of the runtime, while somebody waits for the page
RunDescription = dict[str, Any]  # steps, notices, manifest: as a RunRecord holds them


@admin.register(Run)
class RunAdmin(DetailPage, SessionRowAdmin):
    """Executions, with their verdicts."""

    detail_template = "admin/agent_sessions/run/change_form.html"

    state_shown = choice_column("state", RunState)
    list_display = [
        "__str__", "state_shown", "attempt", "verdict_shown", "verdict_words", "exit_code", "claimed_at", "ended_at",
    ]  # fmt: skip
    list_filter = [("state", ChoicesCheckboxFilter), ("verdict", ChoicesDropdownFilter), "runtime"]
    list_filter_submit = True
    list_fullwidth = True
    ordering = ["-claimed_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Without the last lines of each."""
        return super().get_queryset(request).defer("last_lines")

    def get_details(self, request: HttpRequest, row: Run) -> dict[str, Any]:
        """How it started, why it ended, and of what it was made."""
        run = Run.objects.select_related("session__group", "session__profile").get(pk=row.pk)
        description, trouble = describe(run)
        return {
            "run": run,
            "colour": RunState(run.state).colour,
            "failed": run.verdict in ADVICE and ADVICE[run.verdict].failure,  # type: ignore[index]
            "end_request": end_request(run),
            "bars": start_bars(run, description["steps"]),
            "notices": description["notices"],
            "manifest": json.dumps(description["manifest"], indent=2) if description["manifest"] else "",
            "trouble": trouble,
        }

    @display(description="verdict", ordering="verdict")
    def verdict_shown(self, run: Run) -> str:
        """Why it ended."""
        return run.get_verdict_display()


def describe(run: Run) -> tuple[RunDescription, str]:
    """What is known of a run's start, and a sentence if its runtime should be asked and can't be.

    The runtime is asked for as long as the run has not ended, or its record was not kept.
    """
    record = RunRecord.objects.filter(run=run).first()
    description: RunDescription = {"steps": {}, "notices": [], "manifest": {}}
    if record is not None:
        description = {"steps": record.steps, "notices": record.notices, "manifest": record.manifest}
    if run.removed_at or (run.state == RunState.ENDED and record is not None):
        return description, ""
    ref, name = run.ref, run.runtime
    try:
        described = run_archive.to_json(
            within(DESCRIBE_SECONDS, lambda: runtime_factory.get(name).describe(ref), "describe")
        )
    except TimeoutError:
        return (
            description,
            f"The runtime did not answer within {DESCRIBE_SECONDS:g} s, so what it knows of this run is missing here.",
        )
    except RuntimeFault as fault:
        log.warning("run not described", session=str(run.session_id), run=str(run.pk), words=str(fault))
        return description, "The runtime can't be reached now, so what it knows of this run is missing here."
    return {key: value or description[key] for key, value in described.items()}, ""


def start_bars(run: Run, steps: dict[str, str]) -> list[Bar]:
    """The bars of a run's start, from its own row and from what its runtime described."""
    own = {
        "queued": run.queued_at,
        "claimed": run.claimed_at,
        "made": run.made_at,
        "hello": run.started_at,
        "output": run.first_output_at,
    }
    return bars({**own, **run_archive.steps_of(steps)}, cluster=run.runtime == "kubernetes")


def end_request(run: Run) -> str:
    """Who asked for the run's end, in words; empty if nobody did."""
    if run.intent == Intent.NONE:
        return ""
    return f"{run.get_intent_display()}, asked by {run.intent_by or 'Berth'}"
