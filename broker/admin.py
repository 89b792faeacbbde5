"""The admin of what models were used."""

from django.contrib import admin
from unfold.contrib.filters.admin import RangeDateFilter

from broker.models import BrokerUsage
from groups.admin.toolkit.bases import ReadOnlyAdmin, VisibleSelectFilter


@admin.register(BrokerUsage)
class BrokerUsageAdmin(ReadOnlyAdmin):
    """What agents used of models, by group and day."""

    list_display = ["day", "group", "requests", "input_tokens", "output_tokens"]
    list_filter = [("group", VisibleSelectFilter), ("day", RangeDateFilter)]
    list_filter_submit = True
    list_select_related = ["group"]
    ordering = ["-day"]
