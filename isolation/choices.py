"""Words of a proof: what a check expects, what an attempt came to, what is concluded."""

from django.db import models

from groups.choice_set import ChoiceSet


class Expected(models.TextChoices):
    """What an attempt has to come to."""

    REFUSED = "refused", "Refused"
    SUCCEEDED = "succeeded", "Succeeded"
    HARMLESS = "harmless", "Harmless"  # it may succeed, and nobody else notices


class Outcome(models.TextChoices):
    """What the agent says of an attempt."""

    REFUSED = "refused", "Refused"
    SUCCEEDED = "succeeded", "Succeeded"
    ERROR = "error", "Error"  # the attempt itself went wrong
    NONE = "", "None"  # it was not made, or nothing was heard of it


class Verdict(ChoiceSet):
    """What is concluded from an attempt and from what was seen outside."""

    PASSED = "passed", "success", "Passed"
    FAILED = "failed", "danger", "Failed"
    UNTESTED = "untested", "warning", "Not tested"
    OPEN = "open", "danger", "Not isolated"  # by this runtime, so there is nothing to test
