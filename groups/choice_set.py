"""Choices that have a colour: value, colour and label stand in one place."""

from django.db import models


class ChoiceSet(models.TextChoices):
    """Members are `value, colour, label`.

    Colours are those of unfold's labels: info, success, warning, danger, primary; empty is grey.
    """

    colour: str

    def __new__(cls, value: str, colour: str = "") -> "ChoiceSet":
        """A member, which is its value."""
        member = str.__new__(cls, value)
        member._value_, member.colour = value, colour
        return member
