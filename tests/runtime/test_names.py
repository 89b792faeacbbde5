"""Names, labels and the hash of a spec."""

import re
from dataclasses import replace

import pytest

from k8s_adapter import names
from runtimes.base import EgressAccess, Resources, RunRef, RunSpec, SecretFile
from runtimes.names import matches_hash, spec_hash

REF = RunRef("0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a01", "0b5e2f1c-0f4e-4f3c-9d0a-6f6f1d1f6a02", "7", "blue-team")
SPEC = RunSpec(REF, 1, "image", ("run",), "plain", "http://home", "token")


@pytest.mark.parametrize("slug", ["a", "blue-team", "Ünïcode & more", "x" * 100, "a_b", "-a-"])
def test_every_name_is_a_dns_label(slug: str) -> None:
    for name in (names.namespace(slug), names.claim(slug), names.job(REF.run), names.secret(REF.run)):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)


def test_slugs_that_look_alike_have_names_of_their_own() -> None:
    slugs = ["a-b", "a_b", "a b", "A-B", "x" * 70, "x" * 71]
    assert len({names.namespace(slug) for slug in slugs}) == len(slugs)


def test_a_group_has_a_namespace_unless_one_is_shared() -> None:
    assert names.namespace("blue-team") == "berth-blue-team"
    assert names.namespace("blue-team", "agents") == "agents"


def test_a_run_is_read_back_from_its_labels() -> None:
    assert names.ref_of(names.run_labels(REF, "main")) == REF
    assert names.ref_of(names.group_labels(REF, "main")) is None


def test_the_selector_matches_the_labels() -> None:
    labels = names.run_labels(REF, "main")
    parts = [f"{key}={value}" for key, value in labels.items()] + [names.RUN]
    assert set(names.selector("main").split(",")) <= set(parts)
    assert names.selector("main", REF.run).endswith(f",berth/run={REF.run}")


def test_equal_specs_have_equal_hashes() -> None:
    assert spec_hash(SPEC) == spec_hash(replace(SPEC, environment={}, resources=Resources()))
    assert spec_hash(replace(SPEC, environment={"a": "1", "b": "2"})) == spec_hash(
        replace(SPEC, environment={"b": "2", "a": "1"})
    )


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"image": "other"},
        {"command": ("run", "fast")},
        {"environment": {"A": "b"}},
        {"resources": Resources(memory_mib=2)},
        {"secrets": (SecretFile("a", "env:A"),)},
        {"deadline_seconds": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_changes_the_hash(change: dict[str, object]) -> None:
    assert spec_hash(replace(SPEC, **change)) != spec_hash(SPEC)  # type: ignore[arg-type]


def test_fields_at_their_default_do_not_count() -> None:
    """So that a later version of Berth, whose specs have more fields, still knows the runs of an earlier one."""
    assert matches_hash(SPEC, "50c2d10cb93a8745c5f83cb18ac737d7")


def test_credentials_do_not_count_but_what_they_are_for_does() -> None:
    """A new SECRET_KEY makes others of them, and the run is the same."""
    made = EgressAccess("http://proxy:3128", "one"), (SecretFile("key", "broker:anthropic", "one"),)
    first = replace(SPEC, token="one", egress=made[0], secrets=made[1])
    other = replace(
        SPEC,
        token="other",
        egress=replace(made[0], credential="other"),
        secrets=(replace(made[1][0], value="other"),),
    )
    assert matches_hash(other, spec_hash(first))
    assert not matches_hash(replace(other, egress=replace(made[0], proxy="http://else:3128")), spec_hash(first))
    assert not matches_hash(replace(other, secrets=(SecretFile("key", "broker:openai"),)), spec_hash(first))
