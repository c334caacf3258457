"""Where a reader of the documentation sits: the root of the repository, with pictures at hand."""

import os
import pathlib
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a model is; written by its export, or by hand where there is none.
CARDS = sorted([*ROOT.glob("saved_models/*/README.md"), *ROOT.glob("saved_models/*/*/README.md")])


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder in the place of the repository's root, so that nothing is written into that one."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("saved_models", "train", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    environment = {
        "KERAS_HOME": str(tmp_path_factory.getbasetemp() / "keras"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
    }
    with mock.patch.dict(os.environ, environment), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def draw_pictures(folder, classes, each, size=(40, 30), seed=0):
    """Folders of photographs, each class of one colour."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for i in range(each):
            pixels = np.clip(colour + random.integers(-20, 21, [*size, 3]), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.jpg")
    return folder
