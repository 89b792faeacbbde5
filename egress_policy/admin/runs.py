"""What a run reached and was refused, on the run's page."""

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from egress_policy import traffic
from egress_policy.models import EgressDenial
from groups.admin.toolkit import extensions
from sessions.lifecycle import egress_access
from sessions.models import Run


def panel(run: Run) -> SafeString:
    """The part of the page."""
    context = {
        "uses": traffic.by_host(run.pk),
        "denials": EgressDenial.objects.filter(run=run.pk),
        "words": egress_access.confinement_note(run.runtime),
        "proxy": settings.EGRESS_PROXY_URL,
        "run": run,
    }
    return render_to_string("admin/reach/run.html", context)


extensions.add_panel(Run, panel)
