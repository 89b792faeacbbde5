"""States of access requests, and for how long and whom one may be approved."""

from django.db import models


class RequestState(models.TextChoices):
    """How far a request for a host came."""

    OPEN = "open", "Asked for"  # an agent was refused
    PROPOSED = "proposed", "Proposed"  # an owner of the group wants it
    APPROVED = "approved", "Approved"
    REFUSED = "refused", "Refused"  # it stays so, until a person reopens it


# Unfold's label colours.
REQUEST_COLOURS = {
    RequestState.OPEN: "warning",
    RequestState.PROPOSED: "info",
    RequestState.APPROVED: "success",
    RequestState.REFUSED: "danger",
}
UNDECIDED = (RequestState.OPEN, RequestState.PROPOSED)


class Term(models.TextChoices):
    """For how long an approval holds."""

    ONCE = "once", "For the run that asked"
    HOUR = "1h", "For an hour"
    DAY = "1d", "For a day"
    WEEK = "7d", "For a week"
    MONTH = "30d", "For 30 days"
    GOOD = "good", "For good"


HOURS = {Term.HOUR: 1, Term.DAY: 24, Term.WEEK: 7 * 24, Term.MONTH: 30 * 24}


class Whose(models.TextChoices):
    """Whom an approval is for."""

    PROFILE_OF_GROUP = "both", "Its profile, in its group"
    GROUP = "group", "Its group, with every profile"
    PROFILE = "profile", "Its profile, in every group"
