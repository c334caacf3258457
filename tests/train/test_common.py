"""Run directories: refused, kept, deleted; histories cut to what is kept."""

import dataclasses
import hashlib
import json

import pytest

from train import checkpoints, common, runs


@dataclasses.dataclass
class Settings:
    output: str
    ways: int = 5
    iterations: int = 100
    fresh: bool = False


def test_same_settings_open_the_same_run(tmp_path):
    settings = Settings(str(tmp_path / "run"))
    folder = runs.open_run(settings)
    (folder / "kept").touch()
    assert runs.open_run(settings) == folder == tmp_path / "run"
    assert (folder / "kept").exists()


def test_free_settings_may_change_and_others_not(tmp_path):
    settings = Settings(str(tmp_path))
    runs.open_run(settings, free=["iterations"])
    longer = dataclasses.replace(settings, iterations=200)
    runs.open_run(longer, free=["iterations"])
    with pytest.raises(SystemExit, match="ways: 5 there, 20 here"):
        runs.open_run(dataclasses.replace(longer, ways=20), free=["iterations"])


def test_fresh_deletes_a_run_and_nothing_else(tmp_path):
    settings = Settings(str(tmp_path / "run"))
    folder = runs.open_run(settings)
    (folder / "checkpoint.keras").touch()
    runs.open_run(dataclasses.replace(settings, ways=20, fresh=True))
    assert [p.name for p in folder.iterdir()] == ["config.json"]

    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"name": "not a run"}))
    with pytest.raises(SystemExit, match="deletes only"):
        runs.open_run(Settings(str(other), fresh=True))
    assert (other / "config.json").exists()


def test_a_file_is_known_by_its_content(tmp_path):
    content = bytes(range(256)) * 5000  # more than is read at a time
    (tmp_path / "a").write_bytes(content)
    assert runs.digest(tmp_path / "a") == hashlib.sha256(content).hexdigest()[:16]
    assert [runs.digest(path) for path in ("", None, tmp_path, tmp_path / "b")] == [None] * 4


def test_history_is_cut_to_finished_epochs(tmp_path):
    path = tmp_path / "history.csv"
    # The last row is one that a kill left unfinished.
    path.write_text("epoch,loss,seconds,val_loss\n0,2.0,1.5,NA\n1,1.0,2.5,NA\n2,0.")
    rows = checkpoints.cut_history(tmp_path, 2)
    assert rows == [
        {"epoch": 0.0, "loss": 2.0, "seconds": 1.5},
        {"epoch": 1.0, "loss": 1.0, "seconds": 2.5},
    ]
    assert common.read_history(tmp_path) == rows
    assert common.training_seconds(tmp_path) == 4.0
    assert path.read_text().endswith("1,1.0,2.5,NA\n")
    assert checkpoints.cut_history(tmp_path, 0) == []


@pytest.mark.parametrize(
    ("done", "iterations", "epoch"), [(0, 100, 30), (0, 100, 50), (200, 100, 20)]
)
def test_numbers_of_steps_that_do_not_fit(tmp_path, done, iterations, epoch):
    with pytest.raises(SystemExit, match="--iterations"):
        common._check_steps(tmp_path, done, iterations, epoch, steps_per_execution=20)


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / "results.json"
    runs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        runs.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
