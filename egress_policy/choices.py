"""States of access requests, and for how long and whom one may be approved."""

from django.db import models

from groups.choice_set import ChoiceSet


class RequestState(ChoiceSet):
    """How far a request for a host came."""

    OPEN = "open", "warning", "Asked for"  # an agent was refused
    PROPOSED = "proposed", "info", "Proposed"  # an owner of the group wants it
    APPROVED = "approved", "success", "Approved"
    REFUSED = "refused", "danger", "Refused"  # it stays so, until a person reopens it


UNDECIDED = (RequestState.OPEN, RequestState.PROPOSED)


class RuleState(ChoiceSet):
    """How long a rule holds."""

    GOOD = "good", "", "for good"
    TIME = "time", "info", "for a time"
    OVER = "over", "warning", "over"


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
