"""What a run reached and was refused, on the run's page."""

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from egress_policy import traffic
from egress_policy.models import EgressDenial
from sessions.admin.runs import SECTIONS
from sessions.lifecycle import egress_access
from sessions.models import Run


def section(run: Run) -> SafeString:
    """The part of the page."""
    words = egress_access.confinement(run.runtime)
    told = {"uses": traffic.by_host(run.pk), "denials": EgressDenial.objects.filter(run=run.pk), "words": words}
    return render_to_string("admin/reach/run.html", told | {"proxy": settings.EGRESS_PROXY_URL, "run": run})


SECTIONS.append(section)
