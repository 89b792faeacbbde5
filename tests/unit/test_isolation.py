"""A proof's list of checks, the verdicts on them, the command where nothing isolates, and the report in the admin."""

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from django.core.management import CommandError, call_command
from django.test import Client

from isolation import evaluate, report_text, runner
from isolation.attacks import ATTACKS, broker
from isolation.attacks.base import run_attack
from isolation.checks.catalogue import Check, catalogue
from isolation.checks.egress import spellings
from isolation.choices import Expected, Verdict
from isolation.environment import Endpoint, Environment, Neighbour
from isolation.evaluate import Observations
from isolation.models import Proof
from isolation.observations import longest_gap
from isolation.provider import Provider

ROOT = Path(__file__).parents[2]
NEIGHBOUR = Neighbour("10.0.0.9", 8741, "proof-1.txt", "s", "r", "/srv/b")
ENVIRONMENT = Environment(
    control_plane="http://10.0.0.1:8000",
    listener=Endpoint("10.0.0.1", 40000),
    neighbour=NEIGHBOUR,
    api_service=(Endpoint("10.1.0.1", 443),),
    api_servers=(Endpoint("10.0.0.1", 6443),),
    kubelets=(Endpoint("10.0.0.1", 10250),),
    dns=("10.1.0.10",),
    stores={name: (Endpoint("10.0.0.1", 1000 + n),) for n, name in enumerate(("PostgreSQL", "Redis", "S3"))},
    secret="0" * 64,
    mount="proof",
    provider_key="anthropic-api-key",
    proxy=True,
    allowed=("allowed.example", 443),
    tricks={"private": "a.example", "cname": "b.example", "rebinding": "c.example"},
)
CHECK = Check("api", "Cluster", "The API server", "tcp")
UNDISTURBED, FLOOD = Check("neighbour-undisturbed", "", ""), Check("flood", "", "", "flood")


def by_name(environment: Environment) -> dict[str, Check]:
    return {check.name: check for check in catalogue(environment)}


def test_every_check_has_a_name_of_its_own_and_an_attack_that_the_agent_knows() -> None:
    checks = catalogue(ENVIRONMENT)
    assert len({check.name for check in checks}) == len(checks) > 60
    for check in checks:
        assert check.attack in ATTACKS or not check.attack, check
        assert not check.untested, check
        code = ATTACKS[check.attack].__code__ if check.attack else None
        names = code.co_varnames[: code.co_argcount] if code else ()
        assert set(check.parameters) <= set(names), check
    assert len(json.dumps([check.parameters for check in checks])) < 64 * 1024  # a message holds it
    assert [check.name for check in checks[-2:]] == ["flood", "odd-lines"]


def test_what_is_not_there_is_not_tested() -> None:
    checks = by_name(Environment(control_plane="http://b", listener=Endpoint("10.0.0.1", 1), neighbour=NEIGHBOUR))
    why = {name: check.untested for name, check in checks.items() if check.untested}
    assert why["store-redis"] == "Redis is not used, or its address not known"
    assert why["api-node"] == why["dns-cluster"] == "its address is not known"
    assert "no egress proxy" in why["proxy-literal"] and "no egress proxy" in why["allowed-host"]
    assert not {"confined", "neighbour-tcp", "courier-token", "own-workspace", "other-port"} & why.keys()


def test_a_refusal_where_nobody_listens_says_nothing() -> None:
    place = Endpoint("10.0.0.1", 5432)
    environment = Environment(
        "http://b", ENVIRONMENT.listener, NEIGHBOUR, stores={"PostgreSQL": (place,)}, closed=frozenset([place])
    )
    assert by_name(environment)["store-postgresql"].untested == "nobody listens at 10.0.0.1:5432"


def test_addresses_are_spelled_in_many_ways() -> None:
    assert {"10.0.0.1", "167772161", "0xa000001", "::ffff:10.0.0.1", "012.00.00.01", "127.1"} <= set(
        spellings("10.0.0.1")
    )


@pytest.mark.parametrize(
    ("check", "attempt", "observations", "verdict", "words"),
    [
        (CHECK, {"outcome": "refused", "detail": "no answer"}, Observations(), "passed", "no answer"),
        (CHECK, {"outcome": "succeeded", "detail": "connected"}, Observations(), "failed", "connected"),
        (CHECK, {"outcome": "error", "detail": "a bug"}, Observations(), "failed", "could not be tried: a bug"),
        (CHECK, {"outcome": "error", "detail": "no limit", "untested": True}, Observations(), "untested", "no limit"),
        (CHECK, None, Observations(), "failed", "the agent ended before"),
        (
            CHECK,
            {"outcome": "refused", "detail": "nothing", "digests": ["d1"]},
            Observations(token_digest="d1"),
            "failed",
            "the courier's token",
        ),
        (
            CHECK,
            {"outcome": "refused", "detail": "nothing", "digests": ["d2"]},
            Observations(token_digest="d1"),
            "passed",
            "",
        ),
        (
            Check("own", "", "", "own", expected=Expected.SUCCEEDED),
            {"outcome": "refused", "detail": "full"},
            Observations(),
            "failed",
            "full",
        ),
        (Check("x", "", "", "tcp", untested="no proxy"), None, Observations(), "untested", "no proxy"),
        (Check("canary", "", ""), None, Observations(peers=["10.2.0.1"]), "failed", "10.2.0.1"),
        (Check("canary", "", ""), None, Observations(), "passed", "no connection"),
        (Check("api-courier", "", ""), None, Observations(courier_status=401), "passed", "401"),
        (Check("api-courier", "", ""), None, Observations(courier_status=200), "failed", "200"),
        (Check("api-courier", "", ""), None, Observations(), "untested", ""),
        (UNDISTURBED, None, Observations(heartbeats=9), "passed", "9 signs of life"),
        (UNDISTURBED, None, Observations(heartbeats=9, missing=2), "failed", "2 of its signs"),
        (UNDISTURBED, None, Observations(heartbeats=9, neighbour_peers=1), "failed", "heard 1 strangers"),
        (UNDISTURBED, None, Observations(heartbeats=9, file_changed=True), "failed", "file was changed"),
        (UNDISTURBED, None, Observations(heartbeats=9, alive=False), "failed", "did not go on"),
        (FLOOD, {"outcome": "succeeded", "detail": "24 MiB"}, Observations(gap=1), "passed", "1.0 s"),
        (FLOOD, {"outcome": "succeeded", "detail": ""}, Observations(gap=60), "failed", "60.0 s"),
        (FLOOD, None, Observations(), "failed", "could not be tried"),
    ],
)
def test_verdicts(check: Check, attempt: Any, observations: Observations, verdict: str, words: str) -> None:
    row = evaluate.evaluate(check, attempt, observations)
    assert row.verdict == verdict and words in row.detail


def test_one_failure_fails_all_and_what_is_not_tested_does_not() -> None:
    passed, failed, untested = (
        evaluate.evaluate(CHECK, {"outcome": outcome, "detail": "", "untested": outcome == "error"}, Observations())
        for outcome in ("refused", "succeeded", "error")
    )
    assert evaluate.overall_verdict([passed, untested]) is Verdict.PASSED
    assert evaluate.overall_verdict([passed, failed, untested]) is Verdict.FAILED
    assert evaluate.overall_verdict([untested]) is Verdict.UNTESTED


def test_the_longest_time_without_a_sign_of_life() -> None:
    assert longest_gap([0.0, 1.0, 2.0, 5.0, 9.0], 1.5, 6.0) == 3.0
    assert longest_gap([], 1.0, 4.0) == 3.0


@pytest.mark.django_db
def test_where_nothing_isolates_the_command_says_so_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("prove_isolation")
    told = capsys.readouterr().out
    assert ended.value.code == 1
    assert "with the rights of the user who runs Berth" in told and "NOT ISOLATED" in told and "passed" not in told
    proof = Proof.objects.get()
    assert proof.verdict == Verdict.OPEN
    assert {row["verdict"] for row in proof.rows} == {"open", "untested"}
    call_command("prove_isolation", "--allow-local", "--json")
    assert json.loads(capsys.readouterr().out)["verdict"] == "open"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--group", "a"], "Give --group twice"),
        (["--group", "a", "--group", "a"], "Give --group twice"),
        (["--group", "a", "--group", "b"], "There is no group 'a'"),
        (["--trick", "magic=a.example"], "There is no trick 'magic'"),
        (["--trick", "cname"], "must read NAME="),
        (["--store", "MySQL=a:1"], "There is no store 'MySQL'"),
        (["--allowed-host", "a.example"], "must read HOST:PORT"),
    ],
)
def test_what_the_command_refuses(words: list[str], told: str) -> None:
    with pytest.raises(CommandError, match=told):
        call_command("prove_isolation", *words)


def report() -> Proof:
    row = evaluate.evaluate(CHECK, {"outcome": "refused", "detail": "no\x1b[31m <b>answer</b>"}, Observations())
    return Proof.objects.create(runtime="kubernetes", group="a", beside="b", verdict="passed", rows=[row.as_dict()])


@pytest.mark.django_db
def test_operators_see_reports_and_nobody_else_does(client: Client, people: dict[str, Any]) -> None:
    page = f"/admin/isolation/proof/{report().pk}/change/"
    for name in ("owner", "viewer", "outsider"):
        people[name].is_staff = True
        people[name].save()
        client.force_login(people[name])
        assert client.get(page).status_code in (302, 403, 404), name
    client.force_login(people["operator"])
    assert client.get("/admin/isolation/proof/").status_code == 200
    shown = client.get(page).content.decode()
    assert "&lt;b&gt;answer&lt;/b&gt;" in shown and "\x1b" not in shown and "The API server" in shown
    assert client.post(page, {"verdict": "failed"}).status_code == 405


@pytest.mark.django_db
def test_a_table_for_the_terminal() -> None:
    lines = list(report_text.lines(report()))
    assert any("The API server" in line and "passed" in line and "\x1b" not in line for line in lines)
    assert "1 passed" in lines


def test_berth_runs_without_this_app() -> None:
    """Neither the checks of Django nor the admin's menu miss it."""
    program = """
import sys
sys.modules["isolation"] = None  # as if it were not installed
import django
django.setup()
from django.conf import settings
from django.core.management import call_command
assert "isolation" not in settings.INSTALLED_APPS
call_command("check")
print(*(str(item["link"]) for section in settings.UNFOLD["SIDEBAR"]["navigation"] for item in section["items"]))
"""
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "controlplane.settings"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    links = done.stdout.splitlines()[-1].split()
    assert "/admin/groups/limits/" in links and not any("isolation" in link for link in links)


def test_all_checks_are_listed_where_none_is_made() -> None:
    assert {check.name for check in runner.all_checks()} == {check.name for check in catalogue(ENVIRONMENT)}


class Relaying(http.server.BaseHTTPRequestHandler):
    """A broker that passes everything on, but for what `without` names."""

    provider, without = "", ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.without == "all of it" and len(body) > len(broker.ORDINARY):
            self.send_error(400)
            return
        body.pop(self.without, None)
        headers = {name: self.headers[name] for name in ("anthropic-beta", "x-api-key") if name in self.headers}
        told = requests.post(f"{self.provider}/v1/messages", json=body, headers=headers, timeout=10).content
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("check", "without", "words"),
    [
        ("broker-mcp-servers", "", "asked with mcp_servers"),
        ("broker-image", "", "asked with https://stranger.invalid/"),
        ("broker-beta", "", "asked with proof-of-isolation"),
        ("broker-mcp-servers", "mcp_servers", "passed on without mcp_servers"),
        ("broker-web-fetch", "all of it", "400"),
    ],
)
def test_what_a_broker_lets_pass_shows_at_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, without: str, words: str
) -> None:
    monkeypatch.setenv("BERTH_SECRETS", str(tmp_path))
    (tmp_path / "anthropic-api-key").write_text("stand-in")
    with Provider(Endpoint("127.0.0.1", 1)) as provider:
        handler = type("Handler", (Relaying,), {"provider": provider.url, "without": without})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        parameters = by_name(ENVIRONMENT)[check].parameters | {"url": url}
        told = run_attack(ATTACKS["broker"], parameters)
        server.shutdown()
        server.server_close()
    assert told["outcome"] == ("refused" if without else "succeeded") and words in told["detail"]
    assert "stand-in" not in told["detail"]


def test_without_a_provider_a_refusal_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_SECRETS", str(tmp_path))
    (tmp_path / "anthropic-api-key").write_text("stand-in")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    parameters = by_name(ENVIRONMENT)["broker-beta"].parameters
    told = run_attack(ATTACKS["broker"], parameters | {"url": f"http://127.0.0.1:{server.server_address[1]}"})
    server.shutdown()
    server.server_close()
    assert told["untested"] and "501" in told["detail"]
