"""`manage.py prove_isolation`: let a hostile agent attack from one group's namespace, and report what came of it."""

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from groups import audit
from groups.models import AgentGroup
from isolation import evaluate, report_text, runner
from isolation.checks.egress import TRICKS
from isolation.choices import Verdict
from isolation.environment import Endpoint
from isolation.fixtures import BY
from isolation.models import Proof
from isolation.runs import ProofError
from runtimes.base import RuntimeFault

LOCAL = (
    "RUNTIME is local: agents are processes of this machine, with the rights of the user who runs Berth. They can read "
    "its files, reach what it reaches, and touch each other and their couriers. Run only agents that you trust as "
    "yourself, or use RUNTIME=kubernetes. Nothing was tried."
)
BWRAP = " LOCAL_BWRAP puts them into a sandbox of their own; how well that holds is not proved here."


def endpoint(text: str) -> Endpoint:
    """Read HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ArgumentTypeError(f"{text!r} must read HOST:PORT")
    return Endpoint(host.strip("[]"), int(port))


def name_and_value(text: str) -> tuple[str, str]:
    """Read NAME=TEXT."""
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ArgumentTypeError(f"{text!r} must read NAME=…")
    return name, value


class Command(BaseCommand):
    """Prints a table and stores it. Ends with 0 only if nothing failed."""

    help = "Prove, with a hostile agent, that a group's namespace isolates what runs in it. Takes one to three minutes."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The groups, and what can't be known from the settings."""
        parser.add_argument(
            "--group", action="append", default=[], metavar="SLUG", dest="groups",
            help="twice: the group where the agent attacks, and its neighbour. Without it, two are made and deleted",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        parser.add_argument("--keep", action="store_true", help="keep the groups, the secret, the mount and the rules")
        parser.add_argument("--allow-local", action="store_true", help="end with 0 though the runtime isolates nothing")
        parser.add_argument(
            "--allowed-host", type=endpoint, metavar="HOST:PORT",
            help="a host that speaks TLS, to be allowed for the proof: it must be reached through the egress proxy",
        )  # fmt: skip
        parser.add_argument(
            "--trick", type=name_and_value, action="append", default=[], metavar="KIND=HOST",
            help=f"a name of yours that leads inside, to be allowed for the proof: {', '.join(TRICKS)}",
        )  # fmt: skip
        parser.add_argument(
            "--store", type=name_and_value, action="append", default=[], metavar="NAME=HOST:PORT",
            help="where PostgreSQL, Redis or S3 is, if the settings don't tell",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the proof, or say that there is nothing to prove."""
        chosen = self._options(options)
        local = settings.RUNTIME == "local"
        try:
            proof = self._not_isolated(chosen) if local else self._prove(chosen)
        except ProofError as error:
            raise CommandError(f"Nothing is proved. {error}") from error
        except RuntimeFault as fault:
            raise CommandError(f"Nothing is proved. The cluster: {fault}") from fault
        with transaction.atomic():
            proof.save()
            audit.record("isolation.prove", by=BY, target=proof.pk, verdict=proof.verdict, group_a=proof.group)
        if options["json"]:
            self.stdout.write(json.dumps(as_dict(proof), indent=2))
        else:
            if local:
                self.stdout.write(LOCAL + (BWRAP if settings.LOCAL_BWRAP else ""))
            for line in report_text.lines(proof):
                self.stdout.write(line)
            self.stdout.write(f"Stored as {proof.pk}; operators find it in the admin under Proofs of isolation.")
        passed = options["allow_local"] if local else proof.verdict == Verdict.PASSED
        if not passed:
            sys.exit(1)

    def _options(self, options: dict[str, Any]) -> runner.Options:
        slugs = options["groups"]
        if len(slugs) not in (0, 2) or len(set(slugs)) != len(slugs):
            raise CommandError("Give --group twice, for two groups, or not at all: then two are made.")
        found = set(AgentGroup.objects.filter(slug__in=slugs, deleted_at=None).values_list("slug", flat=True))
        if missing := [slug for slug in slugs if slug not in found]:
            raise CommandError(f"There is no group {missing[0]!r}. Make it in the admin, or leave --group out.")
        if unknown := [kind for kind, _ in options["trick"] if kind not in TRICKS]:
            raise CommandError(f"There is no trick {unknown[0]!r}. Use one of {', '.join(TRICKS)}.")
        stores = {name: endpoint(text) for name, text in options["store"]}
        if unknown := [name for name in stores if name not in ("PostgreSQL", "Redis", "S3")]:
            raise CommandError(f"There is no store {unknown[0]!r}. Use PostgreSQL, Redis or S3.")
        host = options["allowed_host"]
        return runner.Options(
            groups=slugs,
            keep=options["keep"],
            allowed=(host.address, host.port) if host else None,
            tricks=dict(options["trick"]),
            stores=stores,
            log=(lambda line: None) if options["json"] else self.stderr.write,
        )

    def _prove(self, options: runner.Options) -> Proof:
        result = runner.run(options)
        return Proof(
            runtime=settings.RUNTIME,
            group=result.groups[0].slug,
            beside=result.groups[1].slug,
            session=result.sessions[0].pk,
            verdict=evaluate.overall_verdict(result.rows),
            rows=[row.as_dict() for row in result.rows],
            versions={"berth": berth_version(), **result.versions},
            unknown=result.unknown,
        )

    def _not_isolated(self, options: runner.Options) -> Proof:
        rows = [evaluate.not_isolated(check) for check in runner.all_checks()]
        first, second = options.groups or ("", "")
        return Proof(
            runtime="local",
            group=first,
            beside=second,
            verdict=evaluate.overall_verdict(rows),
            rows=[row.as_dict() for row in rows],
            versions={"berth": berth_version()},
        )


def berth_version() -> str:
    """The version of what is installed; empty in a checkout that is not."""
    try:
        return version("berth")
    except PackageNotFoundError:
        return ""


def as_dict(proof: Proof) -> dict[str, Any]:
    """The report for programs."""
    fields = ("runtime", "group", "beside", "verdict", "rows", "versions", "unknown")
    who = {"id": str(proof.pk), "at": proof.at.isoformat(), "session": str(proof.session) if proof.session else None}
    return who | {name: getattr(proof, name) for name in fields}
