"""Files whole or not at all: what fails, what is killed, who else is there."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from maml_tf import files

# Holds a folder by itself, without this package, which takes seconds to import.
HOLDS = "import fcntl, os, sys, time; d = os.open(sys.argv[1], os.O_RDONLY); "
HOLDS += "fcntl.flock(d, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other_process():
    """`other_process(folder)`: one that holds the folder."""
    started = []

    def hold(folder):
        child = subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE)
        started.append(child)
        assert child.stdout.readline() == b"held\n"
        return child

    yield hold
    for child in started:
        child.kill()
        child.wait()
        child.stdout.close()


def test_written_beside_and_renamed_down_to_the_disk(tmp_path, monkeypatch):
    path, done = tmp_path / "a.json", []
    path.write_text("old")
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(("replace", str(target)))
        assert path.read_text() == "old"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with files.whole(path) as beside:
        assert (beside.suffix, beside.parent) == (".json", tmp_path)
        beside.write_text("new")
    # The content before the name, then the name: in another order a power cut loses both.
    assert done == [("sync", str(beside)), ("replace", str(path)), ("sync", str(tmp_path))]
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]


def no_space():
    return OSError(errno.ENOSPC, "No space left")


@pytest.mark.parametrize("error", [no_space, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, error, there):
    path = tmp_path / "a.json"
    if there:
        path.write_text("old")

    def write():
        with files.whole(path) as beside:
            beside.write_text("ne")
            raise error()

    with pytest.raises((OSError, KeyboardInterrupt)) as raised:
        write()
    assert os.listdir(tmp_path) == (["a.json"] if there else [])
    assert not there or path.read_text() == "old"
    if error is no_space:
        assert raised.value.filename == str(path)  # a write does not know it


def test_a_file_that_the_disk_does_not_take(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.bin") as raised, files.whole(path) as beside:
            beside.write_bytes(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert raised.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere" / "a")
    with files.whole(tmp_path / "a") as beside:
        beside.write_text("new")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "elsewhere" / "a").read_text() == "new"


def test_folders_whole_or_not_at_all(tmp_path):
    path = tmp_path / "exported" / "1"

    def write():
        with files.whole_folder(path) as beside:
            (beside / "model").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert os.listdir(path.parent) == []
    with files.whole_folder(path) as beside:
        assert beside.name == "1"  # a model is served under its folder's name
        (beside / "model").write_text("first")
        assert not path.exists()
    with pytest.raises(FileExistsError), files.whole_folder(path) as beside:
        (beside / "model").write_text("second")
    assert (path / "model").read_text() == "first"
    with files.whole_folder(path, replace=True) as beside:
        (beside / "model").write_text("second")
    assert (path / "model").read_text() == "second"
    assert os.listdir(path.parent) == ["1"]


@pytest.mark.parametrize("replace", [False, True])
def test_one_that_comes_at_the_last_moment_stays(tmp_path, monkeypatch, replace):
    """Another process puts its own in place after this one has looked, before it renames."""
    path = tmp_path / "model"
    if replace:
        path.mkdir()
    rename = type(path).rename

    def overtaken(source, target):
        if target == path:
            path.mkdir()
            (path / "theirs").touch()
        return rename(source, target)

    monkeypatch.setattr(type(path), "rename", overtaken)
    writing = files.whole_folder(path, replace=replace)
    with pytest.raises(FileExistsError, match="made meanwhile"), writing as beside:
        (beside / "mine").touch()
    assert os.listdir(path) == ["theirs"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "model"
    with files.whole_folder(path) as beside:
        (beside / "a").write_text("old")
    rename = type(path).rename

    def broken(source, target):
        if target == path and "before" not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(type(path), "rename", broken)
    with pytest.raises(OSError), files.whole_folder(path, replace=True) as beside:  # noqa: PT011
        (beside / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_kill_left_is_cleared_and_what_another_writes_is_not(tmp_path, other_process):
    killed, writing = (tmp_path / f".writing-{n}-0-model" for n in (1, 2))
    for place in (killed, writing):
        (place / "model").mkdir(parents=True)
    other_process(writing)
    (tmp_path / ".making-3-0-model").mkdir()  # killed before it had its name
    with files.whole_folder(tmp_path / "model") as beside:
        (beside / "a").touch()
    assert sorted(os.listdir(tmp_path)) == [writing.name, "model"]


def test_a_folder_that_is_taken_for_abandoned_is_made_again(tmp_path, monkeypatch):
    """By another process, between its making and its being held."""
    hold, taken = files.hold, []

    def first_taken(folder):
        if not taken:
            taken.append(folder)
            os.rmdir(folder)
        return hold(folder)

    monkeypatch.setattr(files, "hold", first_taken)
    with files.whole_folder(tmp_path / "model") as beside:
        (beside / "a").touch()
    assert os.path.basename(taken[0]).startswith(".making-")
    assert os.listdir(tmp_path) == ["model"]


def test_a_kill_between_two_names_loses_neither(tmp_path):
    before = tmp_path / ".writing-1-0-model" / ".before" / "model"
    before.mkdir(parents=True)
    (before / "a").write_text("old")
    (tmp_path / ".writing-1-0-results.json").write_text("ha")
    (tmp_path / ".making-1-0-model").mkdir()
    files.remove_unfinished(tmp_path)
    assert os.listdir(tmp_path) == ["model"]
    assert (tmp_path / "model" / "a").read_text() == "old"


def test_a_folder_is_held_until_the_process_dies(tmp_path, other_process):
    child = other_process(tmp_path)
    assert not files.hold(tmp_path)
    child.kill()
    child.wait()
    assert files.hold(tmp_path)
    assert files.hold(tmp_path)
    assert os.listdir(tmp_path) == []
