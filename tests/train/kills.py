"""Kills a training script again and again, and compares what it ends with: a command.

    python -m tests.train.kills sinusoid --kills 20 --seed 0

Runs the script once undisturbed; then starts it, kills it (SIGKILL) and starts it again until it
is through, in as many runs as it takes for so many kills. Every other kill comes at a random
moment, the others at a random one of its writes: when it opens a file, is about to rename one, or
has written a `.keras` file in part. In the end all weights, optimizers, histories, results,
figures and exported variables must be the same bit for bit, and nothing be left over.

`--at "PATTERN N"` kills at chosen writes in the place of random ones. The scripts are not changed:
Python's audit events and two patched functions in the child tell what it does.
"""

import argparse
import dataclasses
import fnmatch
import importlib
import itertools
import json
import os
import pathlib
import random
import shlex
import signal
import sys
import tempfile
import time
import traceback
import zipfile

ROOT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(os.environ.get("MAML_TF_DATA_DIR", ROOT / "shared" / "data" / "tfds"))
RL = shlex.split(
    "--meta-batch 2 --rollouts 3 --horizon 6 --epoch-iterations 1 --iterations 4 --test-tasks 3 "
    "--test-steps 1 --test-rollouts 3 --fine-tuning 0.1"
)
# Those that are not called as what is killed.
MODULES = {"tiny": "tests.train.tiny", "features": "train.images"}
# The smallest runs that have several epochs, and every kind of file.
OPTIONS = {
    "tiny": [],
    "sinusoid": shlex.split("--quick --iterations 60 --test-tasks 5 --test-inner-steps 1 --no-xla"),
    "omniglot": ["--quick", "--epoch-iterations", "5", "--data-dir", str(SHARED)],
    "mini_imagenet": shlex.split(
        "--quick --iterations 4 --epoch-iterations 1 --ways 2 --queries 1 --inner-steps 1 "
        "--steps-to-evaluate 1 --data-dir {place}/tfds --source {data}"
    ),
    "images": ["--quick", "--epoch-iterations", "5"],
    "features": shlex.split(
        "--quick --epoch-iterations 5 --ways 2 --queries 2 --image-size 32 --data {data} "
        "--backbone mobilenet_v2 --cache {place}/cache"
    ),
    "tabular": shlex.split(
        "--quick --iterations 60 --seeds 2 --hidden 4 --test-tasks 10 --test-inner-steps 2 --no-xla"
    ),
    "navigation": [*RL, "--baselines", "random oracle"],
    "locomotion": [*RL, "--recipe", "modern", "--baselines", "pretrained", "--patience", "3"],
}


class Writes:
    """Counts what a child writes into the folder of its run, and kills it at one of the writes."""

    def __init__(self, place, pattern="*", number=None):
        self.count = 0
        self._place, self._pattern, self._number = str(place), pattern, number
        sys.addaudithook(self._heard)
        self._patch()

    def _heard(self, event, args):
        if event == "open" and isinstance(args[0], str):
            if args[0].startswith(self._place) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                self._happens(f"open {args[0]}")
        elif event == "os.rename":
            self._happens(f"rename {os.fsdecode(args[1])}")
        elif event in ("os.remove", "shutil.rmtree"):
            self._happens(f"remove {os.fsdecode(args[0])}")

    def _patch(self):
        from train import checkpoints

        def open_member(archive, name, mode="r", *args, **kwargs):
            if mode == "w":
                self._happens(f"zip {archive.filename} {getattr(name, 'filename', name)}")
            return ordinary(archive, name, mode, *args, **kwargs)

        def on_train_batch_end(callback, batch, logs=None):
            self._happens("batch")

        ordinary, zipfile.ZipFile.open = zipfile.ZipFile.open, open_member
        checkpoints.Checkpoint.on_train_batch_end = on_train_batch_end

    def _happens(self, what):
        if what == "batch" or self._place in what:
            self.count += fnmatch.fnmatch(what, self._pattern)
            if self.count == self._number:
                os.kill(os.getpid(), signal.SIGKILL)


def start(script, place, data, pattern="*", number=None):
    """Runs the script in a child of this process, which has imported all that takes time.

    Args:
        script: str, name of the module in `train`.
        place: `pathlib.Path` of a folder for the run and the data sets it makes.
        data: `pathlib.Path` of data that it reads.
        pattern: str, which writes are counted.
        number: int or None, at which of them the child kills itself.

    Returns:
        int, the process. Its output goes to `place/log`, the number of writes to `place/writes`.
    """
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        place.mkdir(parents=True, exist_ok=True)
        log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["KERAS_HOME"] = str(data if script == "omniglot" else place / "keras")
        words = [word.format(place=place, data=data) for word in OPTIONS[script]]
        sys.argv = [script, *words, "--output", str(place / "run")]
        if script == "mini_imagenet":
            from maml_tf.tasks import mini_imagenet_staging

            mini_imagenet_staging.IMAGES = 4
            few = module(script).make_tasks

            def make_tasks(settings, start=0):
                queries = min(settings.test_queries, 3)  # of what is drawn, too
                return few(dataclasses.replace(settings, test_queries=queries), start)

            module(script).make_tasks = make_tasks
        from train import common

        writes = Writes(place, pattern, number)
        try:
            common.run(module(script).main)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
            print(ended.code, flush=True)
        (place / "writes").write_text(str(writes.count))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def module(script):
    """The module of a script; `tiny` is one of the tests, `features` is `images` on a backbone."""
    return importlib.import_module(MODULES.get(script, f"train.{script}"))


def wait(child, seconds=None):
    """Waits for a child, or kills it after so many seconds: its exit status, -9 where killed."""
    end = None if seconds is None else time.monotonic() + seconds
    while end is not None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(min(0.01, max(0.0, end - time.monotonic())))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(place):
    """All that must be the same in the end: bytes, arrays and numbers by name."""
    import h5py
    import numpy as np

    run, found = place / "run", {}
    for path in sorted(p for p in place.rglob("*") if p.is_file()):
        name = str(path.relative_to(place))
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
                arrays = {}
                h5py.File(file).visititems(
                    lambda key, item, arrays=arrays: arrays.update(
                        {key: np.asarray(item).tobytes()} if isinstance(item, h5py.Dataset) else {}
                    )
                )
            found[name] = arrays
        elif path.name == "history.csv":
            rows = [line.split(",") for line in path.read_text().splitlines()]
            found[name] = [
                [c for c, title in zip(row, rows[0], strict=True) if not title.endswith("seconds")]
                for row in rows
            ]
        elif path == run / "results.json":
            results = json.loads(path.read_text())
            results.pop("training_seconds", None)
            results["settings"].pop("output", None)
            results["settings"] = {
                k: str(v).replace(str(place), "") for k, v in results["settings"].items()
            }
            found[name] = results
        elif path.suffix in (".png", ".npy", ".npz", ".gif") or ".data-" in path.name:
            found[name] = path.read_bytes()
        elif path.name not in ("log", "writes"):
            found[name] = None  # it is there: more cannot be asked of graphs and times of day
    return found


def differences(expected, received):
    """Names of what is missing, left over, or another."""
    names = sorted({*expected, *received})
    return [name for name in names if expected.get(name, 0) != received.get(name, 0)]


class FailedError(RuntimeError):
    """A run that did not end as it should."""


def kill_again_and_again(script, folder, *, kills=20, seed=0, at=(), minutes=1e9, say=print):
    """Does what the module says; after so many minutes it kills no more.

    Returns:
        `(kills, runs)`, how many there were.

    Raises:
        FailedError: a start failed for another reason, or a run ended with other bits.
    """
    data = prepare(script, folder)
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    if wait(start(script, undisturbed, data)):
        raise FailedError((undisturbed / "log").read_text())
    seconds = time.monotonic() - began
    writes = int((undisturbed / "writes").read_text())
    expected = content(undisturbed)
    say(f"{script}: undisturbed {seconds:.1f} s, {writes} writes, {len(expected)} files")
    left = list(chosen(at) if at else itertools.islice(drawn(seed, writes, seconds), kills))
    left, done, runs = left[::-1], 0, 0
    while left and time.monotonic() - began < 60 * minutes:
        runs += 1
        place = folder / f"run{runs}"
        code = None
        while code != 0:
            if left and time.monotonic() - began < 60 * minutes:
                how, after, hooks = left.pop()
            else:
                how, after, hooks = "not at all", None, {}
            code = wait(start(script, place, data, **hooks), after)
            if code == -signal.SIGKILL:
                done += 1
                say(f"  run {runs}: kill {done}, {how}")
            elif code:
                raise FailedError(f"run {runs} ended with {code}:\n{(place / 'log').read_text()}")
            elif how in at:
                raise FailedError(f"run {runs} was through and never came to {how!r}")
            elif hooks or after:  # it was through before: another moment in its place
                left.append(next(drawn(seed + 100 * runs, writes, seconds)))
        wrong = differences(expected, content(place))
        if wrong:
            raise FailedError(f"{place}: other than undisturbed: {wrong[:20]}")
        say(f"  run {runs}: through, the same bits in {len(expected)} files")
    return done, runs


def chosen(at):
    """`(how, seconds or None, arguments of start)` of each `"PATTERN N"`."""
    for how in at:
        pattern, number = how.rsplit(" ", 1)
        yield how, None, {"pattern": pattern, "number": int(number)}


def drawn(seed, writes, seconds):
    """The same, at random and without end: half of them at a write, half at any moment."""
    chance = random.Random(seed)
    while True:
        if chance.random() < 0.5:
            number = chance.randint(1, writes)
            yield f"at write {number}", None, {"number": number}
        else:
            # Early ones more often, as they take less time: a run that goes on is soon at the
            # later parts.
            after = chance.uniform(0, seconds) * chance.random()
            yield f"after {after:.2f} s", after, {}


def prepare(script, folder):
    """Imports what the children need, and makes the data that they read."""
    import matplotlib

    matplotlib.use("agg")
    module(script)
    data = folder / "data"
    if script == "mini_imagenet":
        from tests.tasks import small_imagenet

        small_imagenet.by_class(data)
    if script == "features":
        # A small network stands in for the backbone, whose export would take most of the time.
        import keras

        from tests.train import test_backbones

        keras.applications.MobileNetV2 = test_backbones.small
        test_backbones.draw(data, [f"class {i}" for i in range(12)], 8)
    return data


def main():
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.train.kills", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "scripts",
        nargs="*",
        default=[name for name in OPTIONS if name != "tiny"],
        help="all by default",
    )
    parser.add_argument("--kills", type=int, default=20, help="of each script")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**16))
    parser.add_argument("--minutes", type=float, default=1e9, help="of each script, then no more")
    parser.add_argument("--at", action="append", default=[], metavar='"PATTERN N"')
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(f"seed {given.seed}", flush=True)
    for script in given.scripts:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            try:
                done, runs = kill_again_and_again(
                    script,
                    pathlib.Path(folder).resolve(),
                    kills=given.kills,
                    seed=given.seed,
                    at=given.at,
                    minutes=given.minutes,
                    say=lambda line: print(line, flush=True),
                )
            except FailedError as error:
                sys.exit(f"{script}: {error}")
            minutes = (time.monotonic() - began) / 60
            print(f"{script}: {done} kills in {runs} runs, all the same bits; {minutes:.1f} min.")


if __name__ == "__main__":
    main()
