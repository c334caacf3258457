"""What README, handbook and cards point to is there: pages, headings, files, options, names."""

import dataclasses
import importlib
import inspect
import re

import pytest

from tests.documentation.conftest import CARDS, PAGES, ROOT

MODELS = ROOT / "saved_models" / "README.md"
ALL = [*PAGES, MODELS, *CARDS]
SCRIPTS = ("adapt", "evaluate", "images", "locomotion", "mini_imagenet", "navigation", "omniglot")
SCRIPTS += ("playground", "pretrain", "sentences", "series", "sinusoid", "tabular")
# Options of other programs, and of tests and benchmarks.
OTHERS = {
    "--check",
    "--enable_batching",
    "--help",
    "--model_config_file",
    "--no-deps",
    "--peers",
    "--pictures",
    "--rounds",
    "--rows",
    "--steps-on-maps",
    "--tasks-on-maps",
    "--training",
    "--untrained",
}


def name_of(page):
    """The path from the root, as a test's id."""
    return page.relative_to(ROOT).as_posix()


def without_code(text):
    """The text without blocks of code, in which brackets are no links."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What a forge and mkdocs call the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.M)
    bare = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    # They would name other places: a forge makes two hyphens of two blanks, mkdocs one.
    assert not [b for b in bare if "  " in b], "a sign between blanks in a heading"
    return {b.strip().replace(" ", "-") for b in bare}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert other.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(other), target


@pytest.fixture(scope="module")
def options():
    """The options of all scripts, those of reinforcement learning among them."""
    return {"--inductive", "--server", *OTHERS} | {
        "--" + field.name.replace("_", "-")
        for script in SCRIPTS
        for field in dataclasses.fields(importlib.import_module(f"train.{script}").Settings)
    }


@pytest.mark.tf_agents
@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_an_option_that_is_named_is_there(page, options):
    code = re.findall(r"`[^`]+`", without_code(page.read_text(encoding="utf-8")))
    named = {option for span in code for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert named <= options


def test_every_page_has_its_place_on_the_site():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    placed = re.findall(r"^ +- (?:[^:\n]+: )?([\w/-]+\.md)$", settings, re.MULTILINE)
    written = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
    assert len(placed) == len(set(placed))
    assert set(placed) == written


@pytest.mark.tf_agents
def test_every_public_name_is_in_the_reference():
    texts = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "api").glob("*.md"))
    described = set(re.findall(r"^::: ([\w.]+)$", texts, re.MULTILINE))
    listed = set(re.findall(r"^\| `([\w.]+)` \|", texts, re.MULTILINE))
    modules = ["learners", "inner_loop", "inner_optimizers", "image_plots", "models", "plots"]
    modules += ["backbones", "serving", "tasks", "rl", "rl.environments"]
    for module in (importlib.import_module(f"maml_tf.{m}") for m in modules):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            places = {f"{module.__name__}.{name}", f"maml_tf.{name}", f"{value.__module__}.{name}"}
            assert places & described, name
            assert places & listed, name
