"""Killed at every kind of moment, a training ends with the same bits: see `kills`, a command."""

import os
import subprocess
import sys

import pytest

from tests.train import kills

# In this order, each in a start that goes on from the one before.
MOMENTS = [
    "rename */config.json 1",
    "rename */best.keras 1",
    "rename */checkpoint.keras 1",  # best is there, the checkpoint is not
    "batch 7",  # in the middle of an epoch
    "open *-checkpoint.keras 1",
    "zip *-checkpoint.keras model.weights.h5 1",  # of the archive a part is written
    "rename */checkpoint.previous.keras 1",
    "rename */checkpoint.keras 1",  # between both: there is only the previous one
    "open *-history.csv 2",
    "rename */history.csv 2",
    "rename */results.json 1",
    "rename */saved_model 1",
    "rename */figure.png 1",
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_the_same_bits_whenever_it_is_killed():
    words = [word for moment in MOMENTS for word in ("--at", moment)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.kills", "tiny", *words],
        cwd=kills.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(MOMENTS)} kills in" in done.stdout


def test_what_is_compared_would_be_noticed(tmp_path):
    """Another bit of a figure, a row less, a file left over."""
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "history.csv").write_text("epoch,seconds\n0,1.5\n")
        (tmp_path / name / "run" / "figure.png").write_bytes(b"png")
    a, b = tmp_path / "a", tmp_path / "b"
    assert kills.differences(kills.content(a), kills.content(b)) == []
    (b / "run" / "history.csv").write_text("epoch,seconds\n0,9.0\n")
    assert kills.differences(kills.content(a), kills.content(b)) == []
    (b / "run" / "history.csv").write_text("epoch,seconds\n1,9.0\n")
    (b / "run" / "figure.png").write_bytes(b"pnG")
    (b / "run" / ".writing-1-x").touch()
    assert kills.differences(kills.content(a), kills.content(b)) == [
        "run/.writing-1-x",
        "run/figure.png",
        "run/history.csv",
    ]
