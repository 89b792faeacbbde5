"""The admin of egress: rules, what was asked for, and what a run reached."""

from egress_policy.admin import requests as requests
from egress_policy.admin import rules as rules
from egress_policy.admin import runs as runs
