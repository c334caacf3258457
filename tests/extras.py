"""Each extra of the package in an environment of its own, made from a built wheel.

    pip install build twine
    python -m tests.extras                                  # all, on this Python: half an hour
    python -m tests.extras none litert --python python3.13

Sources and wheel are built from a clone of the commit that is checked out, and `twine check` reads
them. Then, for one extra after the other: a new environment, `pip install WHEEL[EXTRA]` and, in an
empty folder, a few lines that use what the extra is for; last, `pip check`. What comes of it is
printed as a row of a table; the environments are removed.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
# TF-Agents' own pins keep `pip` from installing it there; see docs/installing.md.
AGENTS = ["--no-deps", "tf-agents==0.19.0"]


class Smoke(NamedTuple):
    """What shows that an extra does what it is for.

    Attributes:
        lines: Python to run in an empty folder, or the words of a command to run in the clone.
        in_clone: bool, whether it is such a command.
    """

    lines: str
    in_clone: bool = False


_LEARNER = """
import keras, maml_tf, numpy as np
learner = maml_tf.MAML(maml_tf.models.sinusoid_mlp(), 0.01)
learner.compile(keras.optimizers.Adam(1e-3), loss="mse")
train = maml_tf.tasks.sinusoid()[0]
learner.fit(train, steps_per_epoch=2, verbose=0)
x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
assert learner.adapt(x, x).predict(x, verbose=0).shape == (5, 1)
"""
_PICTURES = """
import numpy as np, pathlib, PIL.Image
random = np.random.default_rng(0)
for name in "abcdef":
    pathlib.Path("pictures", name).mkdir(parents=True)
    for i in range(4):
        pixels = random.integers(0, 256, [20, 20, 3]).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(f"pictures/{name}/{i}.png")
import maml_tf
import tensorflow_datasets
options = {"ways": 2, "shots": 1, "queries": 1, "image_size": 16, "meta_batch": 2}
train = maml_tf.tasks.image_folder("pictures", split=(0.34, 0.33, 0.33), **options)[0]
assert next(iter(train))[0]["support_x"].shape == (2, 2, 16, 16, 3)
"""
_POLICY = """
from maml_tf import rl
environment = rl.environments.{environment}
learner = rl.MetaPolicy(rl.policies.gaussian({sizes}, [8]), 0.1, inner_steps=1)
learner.compile(rl.TrustRegion(max_divergence=0.02))
learner.fit(environment, steps_per_epoch=1, verbose=0)
"""
SMOKES = {
    "none": Smoke(_LEARNER + 'maml_tf.serving.export(learner, "exported", warm_up=False)'),
    "datasets": Smoke(_PICTURES),
    "tables": Smoke(
        """
import maml_tf, numpy as np, pandas as pd
frame = pd.DataFrame({"who": np.repeat(np.arange(30), 9), "x": np.arange(270.0)})
frame["y"] = 2 * frame["x"] + frame["who"]
frame.to_csv("rows.csv", index=False), frame.to_parquet("rows.parquet")
for rows in (frame, "rows.csv", "rows.parquet"):
    sets = maml_tf.tasks.groups(rows, "y", "who", shots=3, queries=2, meta_batch=2)
    assert next(iter(sets[0]))[0]["support_x"].shape == (2, 3, 1)
"""
    ),
    "train": Smoke(
        _PICTURES
        + """
train = maml_tf.tasks.glyphs(ways=2, meta_batch=2)[0]
assert next(iter(train))[0]["support_x"].shape[:2] == (2, 2)
rows = [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5}]
maml_tf.plots.learning_curve(rows).savefig("curve.png")
import simple_parsing, tensorboard
"""
    ),
    "serving": Smoke(
        _LEARNER
        + """
path = maml_tf.serving.export(learner, "exported")
assert list(path.rglob("tf_serving_warmup_requests")), path
maml_tf.serving.Client("localhost:1", "nobody", timeout=1).close()
"""
    ),
    "litert": Smoke(
        _LEARNER
        + """
path = maml_tf.serving.export_litert(learner, "a.tflite", max_support=5, max_queries=5)
from ai_edge_litert.interpreter import Interpreter
ask = Interpreter(str(path)).get_signature_runner("adapt_and_predict")
counts = {"support_count": np.int32(5), "query_count": np.int32(5), "inner_steps": np.int32(1)}
answer = ask(support_x=x, support_y=x, query_x=x, **counts)["predictions"]
np.testing.assert_allclose(answer, learner.adapt(x, x).predict(x, verbose=0), atol=1e-4)
"""
    ),
    "rl": Smoke(_POLICY.format(environment="Navigation2D(tasks=2, rollouts=2)", sizes="2, 2")),
    "mujoco": Smoke(
        _POLICY.format(environment="HalfCheetahDirection(tasks=2, rollouts=2)", sizes="20, 6")
        + "import imageio"
    ),
    "docs": Smoke("-m mkdocs build --strict --quiet --site-dir site", in_clone=True),
    "test": Smoke("-m pytest -n0 tests/inner tests/plots tests/serving/litert", in_clone=True),
}


def run(words, folder, seconds=3600):
    """Runs a command; an error with what it said at the end where it fails."""
    done = subprocess.run(
        [str(word) for word in words], cwd=folder, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()[-12:]
        raise RuntimeError("\n".join([" ".join(map(str, words))[:300], *said]))
    return done.stdout


def built(folder):
    """A clone of the commit in `folder`, and its wheel, checked."""
    clone = folder / "clone"
    run(["git", "clone", "--quiet", ROOT, clone], folder)
    run([sys.executable, "-m", "build", "--outdir", folder / "dist", clone], folder)
    files = sorted((folder / "dist").iterdir())
    run([sys.executable, "-m", "twine", "check", "--strict", *files], folder)
    (wheel,) = (file for file in files if file.suffix == ".whl")
    return clone, wheel


def tried(extra, python, clone, wheel, folder):
    """Installs one extra and uses it: minutes of both, and what pip thinks of the set."""
    run([python, "-m", "venv", folder / "venv"], folder)
    own = folder / "venv" / "bin" / "python"
    # What is imported is compiled when it is; all of it would take minutes.
    pip = [own, "-m", "pip", "install", "--quiet", "--no-compile"]
    start = time.monotonic()
    run([*pip, wheel if extra == "none" else f"{wheel}[{extra}]"], folder)
    if extra in ("rl", "mujoco") and version(python) > (3, 11):
        run([*pip, *AGENTS], folder)
    installed = time.monotonic()
    smoke, empty = SMOKES[extra], folder / "empty"
    empty.mkdir()
    if smoke.in_clone:
        run([own, *smoke.lines.split()], clone)
    else:
        run([own, "-c", smoke.lines], empty)
    used = time.monotonic()
    check = subprocess.run([own, "-m", "pip", "check"], capture_output=True, text=True)
    conflicts = check.stdout.strip().splitlines() if check.returncode else []
    return installed - start, used - installed, conflicts


def version(python):
    """`(3, 12)` of an interpreter."""
    said = run([python, "-c", "import sys; print(*sys.version_info[:2])"], ROOT)
    return tuple(map(int, said.split()))


def main():
    """Prints a table; the exit status is 1 where an extra failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=", ".join(SMOKES))
    parser.add_argument("--python", default=sys.executable, help="the interpreter to install for")
    options = parser.parse_args()
    unknown = set(options.extras) - set(SMOKES)
    if unknown:
        parser.error(f"Expected extras among {list(SMOKES)}. Received: {sorted(unknown)}.")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        clone, wheel = built(pathlib.Path(name))
        label = ".".join(map(str, version(options.python)))
        print("| Python | extra | installed, s | used, s | `pip check` |\n|---|---|---:|---:|---|")
        for extra in options.extras or SMOKES:
            folder = pathlib.Path(name) / extra
            folder.mkdir()
            try:
                rest = tried(extra, options.python, clone, wheel, folder)
                said = re.sub(r"\s+", " ", "; ".join(rest[2])) or "no conflict"
                cells = f"{rest[0]:.0f} | {rest[1]:.0f} | {said}"
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                failed, cells = True, f"failed | | {error}"
            print(f"| {label} | `{extra}` | {cells} |", flush=True)
            # Some ten thousand files, for which the next extra need not wait.
            subprocess.Popen(["rm", "-rf", str(folder)], start_new_session=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
