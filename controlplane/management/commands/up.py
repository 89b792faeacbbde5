"""`manage.py up`: the whole of Berth on one machine, under one supervisor (what `make run` starts)."""

import os
import shlex
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, close_old_connections
from honcho.manager import Manager

from controlplane import datafolder, demo, shutdown


class Supervisor(Manager):
    """Honcho's supervisor, which lets the agents end while there is still a `web` to tell their last words to."""

    def __init__(self, out: Any) -> None:
        super().__init__()
        self.out, self.ending = out, False

    def terminate(self) -> None:
        """End the agents, then the processes. Honcho calls it on a signal, and when a process ended by itself."""
        if not self.ending:
            self.ending = True
            agents = shutdown.stop_local_runs()
            if agents:
                self.out.write(f"Ending {agents} agent(s) …")
                self.out.flush()
                shutdown.wait_for_local_runs(12)
        super().terminate()


class Command(BaseCommand):
    """Prepares the data, starts the Procfile's processes, shows a first conversation, ends everything on Ctrl-C."""

    help = "Run web, worker and watcher together, with a demo conversation."

    def add_arguments(self, parser: Any) -> None:
        """--no-demo leaves the conversation out."""
        parser.add_argument("--no-demo", action="store_true", help="send no first message")

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs until Ctrl-C, SIGTERM, or the end of one of the processes."""
        host = os.environ.get("HOST", "127.0.0.1")
        for path in claim_data(settings.DATA_DIR):
            self.stdout.write(f"{path}: others of this machine could read it, and no longer can")
        claim_port(host, settings.PORT)
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except OperationalError as error:
            raise CommandError(f"The database can't be reached: {str(error).strip()}. Check DATABASE_URL.") from error
        demo.create()
        close_old_connections()
        manager = Supervisor(self.stdout)
        for name, command in procfile(settings.BASE_DIR / "Procfile").items():
            manager.add_process(name, command, env=environment(host), cwd=str(settings.BASE_DIR))
        threading.Thread(target=self.welcome, args=(not options["no_demo"],), daemon=True).start()
        try:
            manager.loop()
        finally:
            shutdown.end_local_runs()
        asked = (128 + signal.SIGINT, 128 + signal.SIGTERM)
        sys.exit(0 if manager.returncode in asked else manager.returncode or 0)

    def welcome(self, converse: bool) -> None:
        """When the pages answer: the conversation, then where to look and how to log in."""
        host = os.environ.get("HOST", "127.0.0.1")
        base = f"http://{'localhost' if host in ('0.0.0.0', '127.0.0.1', '') else host}:{settings.PORT}"
        if not answers(base):
            return
        session = None
        if converse:
            session, answered = demo.run_conversation()
            if not answered:
                session.refresh_from_db()
                self.stderr.write(f"No answer yet: the demo session is {session.state}. {session.reason}")
        page = f"{base}/admin/agent_sessions/agentsession/{session.pk}/change/" if session else f"{base}/admin/"
        own = check_password(settings.ADMIN_PASSWORD, demo.administrator().password)
        password = settings.ADMIN_PASSWORD if own else "(the password that you set)"
        self.stdout.write(
            f"\n  Berth is up.\n    session  {page}\n    admin    {base}/admin/\n    API      {base}/api/v1/docs\n"
            f"    login    admin  {password}\n  Ctrl-C ends it; the data stays.\n"
        )
        self.stdout.flush()


def claim_data(folder: Path) -> list[Path]:
    """Have the data for as long as this process lives; return what had to be closed to others.

    Fails at once, and in one line, if another Berth has it: the end of either would end the other's agents.
    """
    try:
        datafolder.lock(folder)
        return datafolder.make_private(folder) if settings.RUNTIME == "local" else []
    except datafolder.InUse as held:
        raise CommandError(
            f"DATA_DIR {folder} is in use by {held}. End that Berth, or use another folder: DATA_DIR=var-second"
        ) from None
    except OSError as error:
        raise CommandError(f"DATA_DIR {folder}: {error}. Use a folder of this user's own.") from error


def claim_port(host: str, port: int) -> None:
    """Fail at once, and in one line, if the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(
                f"Port {port} is taken ({error.strerror}). Use another one, and beside another Berth another folder "
                f"too: PORT={port + 1} DATA_DIR=var-{port + 1} make run"
            ) from error


def procfile(path: Path) -> dict[str, str]:
    """The processes of a Procfile, by name."""
    lines = [line.partition(":") for line in path.read_text().splitlines() if line.strip()]
    return {name.strip(): command.strip() for name, _, command in lines}


def environment(host: str) -> dict[str, str]:
    """What the processes get: this one's environment, and this Python's programs first on the path."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", "")])
    level = os.environ.get("LOG_LEVEL", "WARNING")
    return dict(os.environ) | {
        "PATH": path,
        "HOST": shlex.quote(host),
        "PORT": str(settings.PORT),
        "DATA_DIR": str(settings.DATA_DIR),
        "LOG_LEVEL": level,
        "PYTHONUNBUFFERED": "1",
    }


def answers(base: str, seconds: float = 60) -> bool:
    """Wait until `web` answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{base}/admin/login/", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)  # a process that starts: nothing tells us when but trying
        else:
            return True
    return False
