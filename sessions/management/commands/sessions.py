"""`manage.py sessions`: sessions for people in a terminal."""

import io
import json
import os
import pwd
import re
import shutil
import sys
import uuid
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import InterfaceError, OperationalError, connection

from groups.models import AgentGroup
from sessions.choices import SessionState
from sessions.cli import tables, transcript
from sessions.cli.transcript import Paint, Transcript
from sessions.lifecycle import intake
from sessions.lifecycle.intake import InvalidRequest
from sessions.models import AgentSession


class Command(BaseCommand):
    """One subcommand for each thing that a person does. Ids may be cut to any beginning that only one session has."""

    help = "List, show, follow and steer sessions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The subcommands."""
        commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")

        def add(name: str, message: str) -> ArgumentParser:
            command: ArgumentParser = commands.add_parser(name, help=message, description=message)
            return command

        def one(name: str, message: str) -> ArgumentParser:
            command = add(name, message)
            command.add_argument("id", metavar="ID", help="a session's id, or its beginning")
            return command

        def several(name: str, message: str) -> None:
            add(name, message).add_argument("ids", nargs="+", metavar="ID", help="ids, or their beginnings")

        listed = add("list", "the sessions, those with the latest news first")
        listed.add_argument("--state", action="append", choices=SessionState.values, help="may be given several times")
        listed.add_argument("--group", metavar="SLUG")
        listed.add_argument("--limit", type=int, default=50, help="at most so many, 0 for all (default: %(default)s)")
        listed.add_argument("--json", action="store_true")
        show = one("show", "all about a session: its runs with their verdicts, its messages")
        show.add_argument("--json", action="store_true")
        follow = one("follow", "the transcript, live, until Ctrl-C")
        follow.add_argument("--until-idle", action="store_true", help="end when the agent has nothing to do")
        follow.add_argument("--after", type=int, default=0, metavar="SEQ", help="begin after this event")
        follow.add_argument("--new", action="store_true", help="begin with what comes from now on")
        send = one("send", "send a message")
        send.add_argument("text", metavar="TEXT", help="- for the standard input")
        send.add_argument(
            "--as", dest="sender", metavar="USER", help="who says it (default: the user of your name here)"
        )
        send.add_argument("--follow", action="store_true", help="then follow until the agent has nothing to do")
        several("stop", "end runs now, and cancel messages that wait")
        several("close", "end runs when their turn ends")
        several("retry", "try again at once what failed")
        cancel = one("cancel", "take back a message that waits, or discard one that failed")
        cancel.add_argument("number", type=int, metavar="NUMBER")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do one of them. A reader that went away, such as `head`, is no error."""
        colours = options["force_color"] or (
            self.stdout.isatty() and not options["no_color"] and not os.environ.get("NO_COLOR")
        )
        self.paint = Paint(bool(colours))
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that has not every character
        try:
            getattr(self, f"do_{options['what']}")(options)
        except InvalidRequest as error:
            raise CommandError(str(error)) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def do_list(self, options: dict[str, Any]) -> None:
        """The table."""
        found = AgentSession.objects.select_related("group", "profile").order_by("-updated_at")
        if options["state"]:
            found = found.filter(state__in=options["state"])
        if options["group"]:
            if not AgentGroup.objects.filter(slug=options["group"]).exists():
                raise CommandError(f"There is no group {options['group']!r}.")
            found = found.filter(group__slug=options["group"])
        limit = max(0, options["limit"])
        page = list(found[:limit] if limit else found)
        if options["json"]:
            self._json([tables.session_json(session) for session in page])
            return
        if not page:
            self.stdout.write("No sessions.")
            return
        width = shutil.get_terminal_size().columns if self.stdout.isatty() else None
        for line in tables.table(page, self.paint, width):
            self.stdout.write(line)
        more = found.count() - len(page)
        if more:
            self.stdout.write(self.paint(f"… and {more} more: --limit 0 lists all.", "dim"))

    def do_show(self, options: dict[str, Any]) -> None:
        """All about one."""
        session = find(options["id"])
        if options["json"]:
            self._json(tables.session_detail_json(session))
            return
        for line in tables.detail(session, self.paint):
            self.stdout.write(line)

    def do_follow(self, options: dict[str, Any]) -> None:
        """The live transcript. Ends with 1 if it followed until idle, and the session failed."""
        session = find(options["id"])
        after = session.last_seq if options["new"] else max(0, options["after"])
        if after < session.pruned_seq:
            self._aside(f"Events 1 to {session.pruned_seq} were removed after their retention.")
        self._follow(session, after, options["until_idle"])

    def _follow(self, session: AgentSession, after: int, until_idle: bool) -> None:
        lines, away = Transcript(self.paint), False
        while True:
            try:
                for page in transcript.pages(session.pk, after, until_idle=until_idle):
                    self.stdout.write("".join(map(lines.put, page)), ending="")
                    self.stdout.flush()
                    after, away = page[-1]["seq"] if page else after, False
                break
            except KeyboardInterrupt:
                break
            except (OperationalError, InterfaceError) as error:
                connection.close()
                if not away:
                    self._aside(f"The database is away; still trying. ({str(error).strip()})")
                away = True
                transcript.wait()
        self.stdout.write(lines.end(), ending="")
        failed = AgentSession.objects.filter(pk=session.pk, state=SessionState.FAILED).first() if until_idle else None
        if failed:
            self._aside(f"Failed: {tables.one_line(failed.reason)}")
            sys.exit(1)

    def do_send(self, options: dict[str, Any]) -> None:
        """A message of a user: of the one who has the name of the person at the terminal, if there is one."""
        session = find(options["id"])
        text = sys.stdin.read() if options["text"] == "-" else options["text"]
        model = get_user_model()
        name = options["sender"] or person()
        sender = model.objects.filter(**{model.USERNAME_FIELD: name}, is_active=True).first()
        if options["sender"] and sender is None:
            raise CommandError(f"There is no active user {name!r}.")
        message = intake.post_message(session, text, sender=sender)
        self.stdout.write(f"{tables.short(session)}  message {message.number} is accepted")
        if options["follow"]:
            self._follow(session, session.last_seq, until_idle=True)

    def do_stop(self, options: dict[str, Any]) -> None:
        """End now."""
        self._each(options, lambda session: intake.stop(session, by=person()), stopped, "had nothing to stop")

    def do_close(self, options: dict[str, Any]) -> None:
        """End gracefully."""
        self._each(
            options,
            lambda session: intake.close(session, by=person()),
            lambda session: "closes when its turn ends",
            "had nothing to close",
        )

    def do_retry(self, options: dict[str, Any]) -> None:
        """Try again."""

        def again(session: AgentSession) -> bool:
            intake.retry(session, by=person())
            return True

        self._each(options, again, lambda session: "is tried again", "")

    def do_cancel(self, options: dict[str, Any]) -> None:
        """Take back, or discard."""
        session = find(options["id"])
        message = intake.cancel(session, options["number"], by=person())
        self.stdout.write(f"{tables.short(session)}  {tables.one_line(message.reason)}")

    def _each(
        self,
        options: dict[str, Any],
        do: Callable[[AgentSession], bool],
        done: Callable[[AgentSession], str],
        nothing: str,
    ) -> None:
        """Do one thing to several sessions, and tell for each what came of it. Ends with 1 if one was refused."""
        failed = False
        for start in options["ids"]:
            try:
                session = find(start)
                message = done(session) if do(session) else nothing
                self.stdout.write(f"{tables.short(session)}  {message}")
            except (CommandError, InvalidRequest) as error:
                failed = True
                self.stderr.write(f"{start}  {error}")
        if failed:
            sys.exit(1)

    def _json(self, payload: Any) -> None:
        self.stdout.write(json.dumps(payload, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False))

    def _aside(self, message: str) -> None:
        """Something about the transcript that is not of it."""
        self.stderr.write(message, self.style.NOTICE if self.paint.on else None)


def find(start: str) -> AgentSession:
    """The session whose id begins with `start`. Raises CommandError if none does, or several do."""
    digits = start.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise CommandError(f"{start!r} is no beginning of an id. `manage.py sessions list` shows them.")
    low, high = (uuid.UUID(digits.ljust(32, fill)) for fill in "0f")
    found = AgentSession.objects.filter(pk__gte=low, pk__lte=high).select_related("group", "profile", "created_by")
    rows = list(found.order_by("pk")[:4])
    if not rows:
        raise CommandError(f"There is no session {start}. `manage.py sessions list` shows them.")
    if len(rows) > 1:
        ids = ", ".join(str(row.pk) for row in rows[:3]) + (" …" if len(rows) > 3 else "")
        raise CommandError(f"Several sessions begin with {start}: {ids}. Give more of the id.")
    return rows[0]


def stopped(session: AgentSession) -> str:
    """What a stop did: to a run, or to messages that waited for one."""
    return "is being stopped" if session.runs.active().exists() else "does not wait any more"


def person() -> str:
    """Who sits at the terminal, by the operating system."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user without a name
        return f"uid {os.getuid()}"
