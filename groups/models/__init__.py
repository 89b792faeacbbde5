"""The rows of tenants: groups, members, profiles, tokens, mounts, secrets, and the audit log."""

from groups.models.audit import AuditEntry
from groups.models.members import Membership, OperatorScope
from groups.models.mounts import GroupMount, MountRoot
from groups.models.profiles import AgentProfile
from groups.models.secrets import BrokeredKey, SecretReference, SecretUse
from groups.models.tenants import AgentGroup, Limits
from groups.models.tokens import ApiToken

__all__ = [
    "AgentGroup",
    "AgentProfile",
    "ApiToken",
    "AuditEntry",
    "BrokeredKey",
    "GroupMount",
    "Limits",
    "Membership",
    "MountRoot",
    "OperatorScope",
    "SecretReference",
    "SecretUse",
]
