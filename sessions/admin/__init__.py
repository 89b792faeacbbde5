"""The admin of sessions: starting one, its live page, its runs, and what Berth wrote about it, to read."""

from sessions.admin import events as events
from sessions.admin import groups as groups
from sessions.admin import messages as messages
from sessions.admin import runs as runs
from sessions.admin import secrets as secrets
from sessions.admin import sessions as sessions
