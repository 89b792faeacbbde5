"""The admin of proofs: what was tried, and what came of it. For operators."""

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.decorators import display

from groups import permissions
from groups.admin.toolkit.bases import ReadOnlyAdmin
from groups.admin.toolkit.columns import choice_column
from groups.admin.toolkit.pages import DetailPage
from groups.models import AgentGroup
from isolation.choices import Expected, Verdict
from isolation.models import Proof
from sessions.models import AgentSession
from sessions.stream.markdown import visible


@admin.register(Proof)
class ProofAdmin(DetailPage, ReadOnlyAdmin):
    """Reports, for superusers and whoever was given the permission to see them."""

    detail_template = "admin/isolation/proof/change_form.html"

    verdict_shown = choice_column("verdict", Verdict)
    list_display = ["at", "verdict_shown", "group", "beside", "runtime", "passed", "failed", "untested"]
    list_filter = ["verdict", "runtime"]
    ordering = ["-at"]

    def visible_rows(self, request: HttpRequest, rows: QuerySet[Any]) -> QuerySet[Any]:
        """All of them; for an operator of some groups those that tell of these alone."""
        if not permissions.is_scoped_operator(request.user):
            return rows
        operated = AgentGroup.objects.operable_by(request.user).order_by().values("slug")
        return rows.filter(group__in=operated, beside__in=operated)

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Superusers have every permission."""
        return bool(request.user.has_perm("isolation.view_proof"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """It stands in the menu of those who may look."""
        return self.has_view_permission(request)

    def get_details(self, request: HttpRequest, row: Proof) -> dict[str, Any]:
        """The report."""
        visible_sessions = AgentSession.objects.visible_to(request.user)
        return {
            "proof": row,
            "colour": Verdict(row.verdict).colour,
            "counts": [(verdict.label, verdict.colour, row.count(verdict)) for verdict in Verdict],
            "sections": sections(row.rows),
            "session": row.session and visible_sessions.filter(pk=row.session).first(),
        }

    @display(description="passed")
    def passed(self, proof: Proof) -> int:
        """Checks that came out as they should."""
        return proof.count(Verdict.PASSED)

    @display(description="failed")
    def failed(self, proof: Proof) -> int:
        """Checks that did not, or that the runtime can't pass."""
        return proof.count(Verdict.FAILED) + proof.count(Verdict.OPEN)

    @display(description="not tested")
    def untested(self, proof: Proof) -> int:
        """Checks that say nothing here."""
        return proof.count(Verdict.UNTESTED)


def sections(rows: list[dict[str, str]]) -> list[tuple[str, list[dict[str, str]]]]:
    """The rows by their sections, with words and colours for the page; what an agent said can't harm it."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        verdict = Verdict(row["verdict"])
        shown = {
            "label": verdict.label,
            "colour": verdict.colour,
            "expected": Expected(row["expected"]).label.lower(),
            "detail": visible(row["detail"]),
        }
        found.setdefault(row["section"], []).append(row | shown)
    return list(found.items())
