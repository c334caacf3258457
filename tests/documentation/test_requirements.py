"""The same Pythons in `requirements.txt`, `pyproject.toml` and the documentation."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests import extras
from tests.documentation.conftest import PAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RL = PROJECT["optional-dependencies"]["rl"]
LINES = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
SET = [Requirement(line) for line in LINES if line and not line.startswith("#")]
VERSIONS = ["3.11", "3.12", "3.13"]


def applying(requirements, python):
    """Those that are installed on this Python, by name; each at most once."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    found = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
    names = {r.name: r for r in found}
    assert len(names) == len(found)
    return names


@pytest.mark.parametrize("python", ["3.10", *VERSIONS, "3.14"])
def test_other_pythons_are_refused_and_first(python):
    known = python in VERSIONS
    assert (f"{python}.0" in SpecifierSet(PROJECT["requires-python"])) == known
    refused = SET[0].url is not None and SET[0].name in applying(SET, python)
    assert refused != known


@pytest.mark.parametrize("python", VERSIONS)
def test_the_pinned_set_is_within_the_extra(python):
    """TF-Agents is the only one that 3.12 and 3.13 do without; what it imports is there."""
    pinned, extra = (applying(found, python) for found in (SET, map(Requirement, RL)))
    assert set(extra) <= set(pinned)
    for name, requirement in extra.items():
        (version,) = pinned[name].specifier
        assert version.version in requirement.specifier, name
    assert ("tf-agents" in extra) == (python == "3.11")


@pytest.mark.parametrize("python", VERSIONS)
def test_the_site_is_built_by_pinned_programs(python):
    pinned = applying(SET, python)
    for requirement in map(Requirement, PROJECT["optional-dependencies"]["docs"]):
        (version,) = pinned[requirement.name].specifier
        assert version.version in requirement.specifier


def test_every_extra_is_tried_in_an_environment_of_its_own():
    assert set(extras.SMOKES) == {"none", *PROJECT["optional-dependencies"]}


def test_every_extra_that_a_page_installs_is_there():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = re.findall(r"(?<![\w\]])\.\[([\w,]+)\]", pages)
    extras = {extra for names in named for extra in names.split(",")}
    assert extras == set(PROJECT["optional-dependencies"])


def test_one_version_of_tf_agents():
    (pinned,) = applying(SET, "3.11")["tf-agents"].specifier
    texts = [ROOT / name for name in ("docs/installing.md", "requirements.txt", ".ci/run")]
    texts += [ROOT / "maml_tf" / "rl" / "_tf_agents.py", ROOT / "pyproject.toml"]
    for text in texts:
        found = re.findall(r"--no-deps tf-agents==([\d.]+\d)", text.read_text(encoding="utf-8"))
        assert found == [pinned.version], text.name
