"""The admin of egress: rules, what was asked for, and what a run reached."""

from reach.admin import requests as requests
from reach.admin import rules as rules
from reach.admin import runs as runs
