"""`manage.py runtasks`: the worker. Django-Q's cluster, made to end cleanly under any supervisor."""

import os
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections
from django_q.cluster import Cluster


class Command(BaseCommand):
    """Works until SIGTERM or SIGINT, and lets the tasks in hand finish."""

    help = "Work off the task queue."

    def handle(self, *args: Any, **options: Any) -> None:
        """Start the cluster and wait for its end.

        A supervisor, or Ctrl-C, signals the whole process group. Django-Q wants only its first process to be signalled,
        since that one stops the others in order; so each child goes into a group of its own.
        """
        os.register_at_fork(after_in_child=os.setpgrp)
        connections.close_all()  # a connection can't be shared with a child
        cluster = Cluster()
        cluster.start()
        cluster.sentinel.join()
