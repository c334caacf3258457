"""Disks that are full, read-only or damage what they hold: one line, and nothing is lost."""

import errno
import json
import os
import pathlib
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.test_files import other_process  # noqa: F401
from tests.train import kills, tiny
from train import checkpoints, common, runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    tiny.train(folder)
    return folder


def assert_same(folder, whole):
    """The same arrays in all checkpoints, the same history, and nothing left over."""
    # Their parents: `content` looks for the run in there.
    received, expected = (kills.content(path.parent) for path in (folder, whole))
    assert kills.differences(expected, received) == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half") / "run"
    tiny.train(folder, 8)
    return folder


@pytest.fixture
def half(trained, tmp_path):
    """A run of two epochs."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("here", [False, True])
def test_whether_xla_compiles_is_for_this_machine_to_say(half, monkeypatch, here):
    """What a GPU trained with XLA goes on without it on a machine that has none."""

    def made():
        learner = tiny_learner()
        learner.jit_compile = here
        return learner

    tiny_learner = tiny.make_learner
    path = half / checkpoints.CHECKPOINT
    there = checkpoints.load_model(path)
    there._compile_config.config["jit_compile"] = not here
    there.save(path)
    monkeypatch.setattr(tiny, "make_learner", made)
    assert keras.saving.load_model(path).jit_compile is not here
    assert tiny.train(half, 12).jit_compile is here


def cut(data):
    return data[: len(data) // 2]


def last_byte(data):
    return data[:-1]


def flip(data):
    at = data.index(b"HDF") + 5000  # in the weights
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def zeros(data):
    """What a power cut leaves where a name was written and the content was not."""
    return bytes(len(data))


def other_rate(data):
    """A bit of the settings: it would load, and train otherwise."""
    changed = data.replace(b'"learning_rate": 0.05', b'"learning_rate": 0.06')
    assert changed != data
    return changed


@pytest.mark.parametrize("damage", [cut, last_byte, flip, zeros, other_rate, lambda data: b""])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(half, whole, capsys, damage):
    path = half / "checkpoint.keras"
    path.write_bytes(damage(path.read_bytes()))
    tiny.train(half)
    error = capsys.readouterr().err
    assert f"{path} cannot be read (" in error
    assert "going on from checkpoint.previous.keras, an epoch earlier" in error
    assert len(error.strip().splitlines()) == 1
    assert_same(half, whole)


def test_the_good_one_is_not_overwritten_by_the_damaged_one(half, whole, monkeypatch):
    path = half / "checkpoint.keras"
    path.write_bytes(b"damaged")
    assert int(checkpoints.load_last(half).optimizer.iterations) == 4
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("checkpoint.keras"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny.train(half)
    monkeypatch.undo()
    tiny.train(half)
    assert_same(half, whole)


@pytest.mark.parametrize("previous", [True, False])
def test_where_none_can_be_read_nothing_is_started_anew(half, previous):
    for name in ("checkpoint.keras", "checkpoint.previous.keras"):
        (half / name).write_bytes(b"damaged")
    if not previous:
        (half / "checkpoint.previous.keras").unlink()
    before = (half / "history.csv").read_bytes()
    with pytest.raises(SystemExit, match=r"checkpoint\.keras cannot be read .*--fresh") as ended:
        tiny.train(half)
    assert "\n" not in str(ended.value)
    assert (half / "history.csv").read_bytes() == before


def test_a_damaged_best_epoch_is_told(half):
    (half / "best.keras").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"best\.keras cannot be read .*--fresh"):
        checkpoints.load_best(half)


@pytest.mark.parametrize("name", ["checkpoint.keras", "best.keras", "history.csv"])
def test_a_full_disk_is_told_in_a_line_and_nothing_is_lost(half, whole, monkeypatch, capsys, name):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", _full(name))
        with pytest.raises(SystemExit) as ended:
            common.run(lambda: tiny.train(half))
    monkeypatch.undo()
    assert f"{half / name}: No space left on device. What was finished" in str(ended.value)
    assert "\n" not in str(ended.value)
    assert not list(half.glob(".writing-*"))
    assert int(checkpoints.load_last(half).optimizer.iterations) == 8
    assert not capsys.readouterr().err
    tiny.train(half)
    assert_same(half, whole)


def _full(name):
    replace = os.replace

    def refuse(source, target):
        if str(target).endswith(f"/{name}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    return refuse


def test_a_disk_that_takes_a_part_of_the_checkpoint(half, whole):
    """The system itself refuses, in the middle of the file."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    most = (half / "checkpoint.keras").stat().st_size - 100
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(SystemExit, match=r"(checkpoint|best)\.keras: File too large\."):
            common.run(lambda: tiny.train(half))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(half.glob(".writing-*"))
    tiny.train(half)
    assert_same(half, whole)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EROFS, "Read-only file system", "runs/a"), "runs/a: Read-only file system."),
        (OSError(errno.EIO, "Input/output error"), "Input/output error."),
        (
            tf.errors.ResourceExhaustedError(None, None, "runs/a\n; No space left on device"),
            "runs/a ; No space left on device.",
        ),
    ],
)
def test_what_a_disk_says_is_one_line(error, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        common.run(main)
    assert str(ended.value).startswith(f"{line} What was finished before is kept")
    with pytest.raises(SystemExit) as ended:
        common.run(main, resumes=False)
    assert str(ended.value) == line


@pytest.mark.parametrize(
    "error",
    [tf.errors.InvalidArgumentError(None, None, "shapes"), OSError("no disk's"), ValueError()],
)
def test_other_errors_keep_their_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)) as raised:
        common.run(main)
    assert raised.value is error


@pytest.mark.parametrize("place", ["{tmp}/file/run", "/proc/run"])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    place = place.format(tmp=tmp_path)
    monkeypatch.setattr("sys.argv", ["tiny", "--output", place])
    with pytest.raises(SystemExit) as ended:
        common.run(tiny.main)
    assert str(ended.value).startswith((f"{place}: ", f"{pathlib.Path(place).parent}: "))
    assert "\n" not in str(ended.value)


def test_a_second_process_is_sent_away(tmp_path, monkeypatch, other_process):  # noqa: F811
    monkeypatch.setattr("sys.argv", ["tiny", "--output", str(tmp_path), "--fresh"])
    (tmp_path / "checkpoint.keras").touch()
    other_process(tmp_path)
    with pytest.raises(SystemExit, match=f"Another process is training in {tmp_path}"):
        common.run(tiny.main)
    assert os.listdir(tmp_path) == ["checkpoint.keras"]


def test_a_run_half_deleted_is_not_gone_on_with(tmp_path, monkeypatch):
    """Killed while `--fresh` deletes: what is left belongs to other settings."""
    settings = tiny.Settings(str(tmp_path / "run"))
    folder = runs.open_run(settings)
    tiny.train(folder, 4)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.open_run(tiny.Settings(settings.output, fresh=True))
    monkeypatch.undo()
    assert (folder / "checkpoint.keras").exists()
    runs.open_run(tiny.Settings(settings.output, epochs=9))
    assert os.listdir(folder) == ["config.json"]
    assert json.loads((folder / "config.json").read_text()) == {"epochs": 9}


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 10_000, "\0"])
def test_damaged_settings_are_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for fresh in (True, False):
        with pytest.raises(SystemExit, match=r"config\.json is damaged"):
            runs.open_run(tiny.Settings(str(tmp_path), fresh=fresh))
    assert (tmp_path / "config.json").read_text() == text


HISTORY = "epoch,loss,seconds,val_loss\n0,2.0,1.5,NA\n1,1.0,2.5,NA\n"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (HISTORY, 2),
        (HISTORY + "2,0.", 2),  # what a kill of an older version left
        (HISTORY.replace("1,1.0,2.5,NA", "1,__import__('os'),2.5,NA"), 1),
        (HISTORY.replace("1,1.0,2.5,NA", "1,1.0,2.5,NA,7"), 1),
        (HISTORY.replace("2.0", "\0"), 0),
        ("\0" * 300, 0),
        ("", 0),
        ('"' + "x" * 200_000, 0),
    ],
)
def test_rows_before_a_damaged_one_are_read(tmp_path, capsys, text, rows):
    path = tmp_path / "history.csv"
    path.write_text(text)
    assert len(common.read_history(tmp_path)) == rows
    assert len(checkpoints.cut_history(tmp_path, 2)) == rows
    told = capsys.readouterr().err
    assert told == (
        ""
        if rows == 2
        else f"{path} has {rows} whole rows of 2 finished epochs: "
        "the others are lost, the training is not.\n"
    )
    if rows < 2:
        with pytest.raises(SystemExit, match="which epoch was best stands there"):
            checkpoints.cut_history(tmp_path, 2, needed=True)
    # And training goes on writing it.
    history = checkpoints.History(tmp_path)
    history.on_epoch_end(2, {"loss": 0.5, "seconds": 1.0})
    assert common.read_history(tmp_path)[-1] == {"epoch": 2.0, "loss": 0.5, "seconds": 1.0}
    assert len(common.read_history(tmp_path)) == rows + 1


def test_checkpoints_of_someone_else_execute_nothing(half, tmp_path, capsys):
    """Safe mode stays on: a model with code in it is one that cannot be read."""
    marks = _marks(str(tmp_path / "mark"))
    model = keras.Sequential([keras.Input([1]), keras.layers.Lambda(marks)])
    model.compile("adam", "mse")
    (tmp_path / "mark").unlink()
    model.save(tmp_path / "lambda.keras")
    shutil.copy(tmp_path / "lambda.keras", half / "checkpoint.keras")
    (tmp_path / "mark").unlink(missing_ok=True)
    assert int(checkpoints.load_last(half).optimizer.iterations) == 4
    assert not (tmp_path / "mark").exists()
    assert "cannot be read (" in capsys.readouterr().err
    assert np.isfinite(keras.saving.load_model(half / "checkpoint.keras").get_weights()[0]).all()


def _marks(path):
    return lambda x: (open(path, "w").close(), x)[1]


def test_the_average_of_the_weights_is_validated_and_kept_and_changes_no_training(tmp_path):
    def train(folder, iterations, **average):
        def make_learner():
            model = tiny.make_learner()
            model.compile(keras.optimizers.Adam(0.05, **average), "mse")
            return model

        given = {"iterations": iterations, "epoch_iterations": 1, "best": "val_loss"}
        ends = [
            common.train(make_learner, tiny.make_tasks, folder, validation=x_y, **given)
            for _ in range(2)  # the second time it finds the first one's
        ]
        for one, other in zip(*(end.get_weights() for end in ends), strict=True):
            np.testing.assert_array_equal(one, other)
        return checkpoints.load_last(folder).get_weights()

    x_y = tiny.validation()
    mean = None
    for iterations in range(1, 4):  # each goes on where the one before stopped
        weights = train(tmp_path / "averaged", iterations, use_ema=True, ema_momentum=0.75)
        before = mean or weights  # a first average is of one
        mean = [0.75 * m + 0.25 * w for m, w in zip(before, weights, strict=True)]
        # It is worse with every epoch, which is what `best` asks for here.
        best = checkpoints.load_best(tmp_path / "averaged")
        for mine, expected in zip(best.get_weights(), mean, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-6)
        found = checkpoints.read_history(tmp_path / "averaged")[-1]["val_loss"]
        assert best.evaluate(x_y, verbose=0) == pytest.approx(found, rel=1e-6)
    plain = train(tmp_path / "plain", 3)
    for mine, expected in zip(weights, plain, strict=True):
        np.testing.assert_array_equal(mine, expected)
