"""The admin of tenants, people and limits, and what all of Berth's admin pages share."""

from groups.admin import audit as audit
from groups.admin import groups as groups
from groups.admin import limits as limits
from groups.admin import people as people
from groups.admin.shared import HistoryAdmin, ReadOnlyAdmin, VisibleAdmin

__all__ = ["HistoryAdmin", "ReadOnlyAdmin", "VisibleAdmin"]
