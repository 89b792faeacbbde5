"""The admin of tenants, people and limits, and what all of Berth's admin pages share."""

from groups.admin import api_tokens as api_tokens
from groups.admin import audit as audit
from groups.admin import groups as groups
from groups.admin import limits as limits
from groups.admin import mounts as mounts
from groups.admin import people as people
from groups.admin import secrets as secrets
from groups.admin.shared import (
    GlobalAdmin,
    HistoryAdmin,
    ReadOnlyAdmin,
    SuperusersAdmin,
    VisibleAdmin,
    VisibleSelectFilter,
)

__all__ = ["GlobalAdmin", "HistoryAdmin", "ReadOnlyAdmin", "SuperusersAdmin", "VisibleAdmin", "VisibleSelectFilter"]
