"""The admin of tenants, people and limits."""

from groups.admin import api_tokens as api_tokens
from groups.admin import audit as audit
from groups.admin import groups as groups
from groups.admin import limits as limits
from groups.admin import mounts as mounts
from groups.admin import people as people
from groups.admin import secrets as secrets
