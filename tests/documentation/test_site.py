"""The handbook as a site: it builds without a warning, and nothing on it is fetched."""

import html.parser
import os
import re
import subprocess
import sys

import pytest

from tests.documentation.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of a site that was built strictly: a warning would have been an error."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # a message about another program
    done = subprocess.run(
        [*words, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class _Fetched(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("img", "script", "iframe", "source"):
            self.found.append(given.get("src"))
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.found.append(given.get("href"))


def test_nothing_is_fetched_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        reader = _Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        here = [source for source in reader.found if source]
        assert not [source for source in here if re.match(r"(\w+:)?//", source)], page
        missing = [s for s in here if not (page.parent / s.partition("?")[0]).exists()]
        assert page.name == "404.html" or not missing, page


def test_the_reference_shows_the_docstrings(site):
    text = (site / "api" / "learners" / "index.html").read_text(encoding="utf-8")
    assert 'id="maml_tf.learners.MAML"' in text
    # What learners have of the classes that they are made of, in one place.
    assert 'id="maml_tf.learners.Learner.fit"' in text
    assert 'id="maml_tf.learners.Learner.predict_path"' in text
    assert "compute the activations of inner steps again" in text
    # An example is a block of code, and no quotation of a quotation of a quotation.
    assert "<blockquote>" not in text
