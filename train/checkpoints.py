"""What a training script keeps after each epoch, and how it finds the last of it that is whole.

`checkpoint.keras` holds weights and optimizer after the last finished epoch and
`checkpoint.previous.keras` those of the epoch before, for when a disk has damaged the first;
`best.keras` is the epoch that was best in validation, `history.csv` has a row an epoch. Where the
optimizer keeps a moving average of the weights, that is what is validated, and what `best.keras`
has.
"""

import contextlib
import csv
import io
import pathlib
import sys
import zipfile

import keras

from maml_tf import files

CHECKPOINT, PREVIOUS, BEST, HISTORY = (
    "checkpoint.keras",
    "checkpoint.previous.keras",
    "best.keras",
    "history.csv",
)


def load_model(path, jit_compile=None, **options):
    """`keras.saving.load_model`, which says of what is no whole .keras file that it is none.

    Nothing else is handed to Keras: its readers of other kinds have other promises about what a
    file may do.

    Args:
        path: path of the file.
        jit_compile: bool, whether XLA compiles what the learner does: that is for this machine and
            these options to say, not for the ones it was saved with. None: as the file says.
        **options: those of `keras.saving.load_model`.

    Raises:
        ValueError: there is no such file, it is of another kind, or damaged.
        Exception: whatever broken bytes bring about in the readers below Keras.
    """
    path = pathlib.Path(path)
    if reason := _no_keras_file(path):
        raise ValueError(reason)
    model = keras.saving.load_model(path, **options)
    if jit_compile is not None:
        model.jit_compile = jit_compile
    return model


def _no_keras_file(path):
    """Why a path is none of a whole .keras file; None where it may be."""
    if not path.exists():
        return "it does not exist"
    if path.is_dir():
        return "it is a folder"
    if path.suffix != ".keras":
        return "its name does not end in .keras"
    size = path.stat().st_size
    if not size:
        return "the file is empty"
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            return (
                f"the file is damaged, or no .keras file: its {size} bytes are no whole zip archive"
            )
    with zipfile.ZipFile(path) as archive:
        if "config.json" not in archive.namelist():
            return f"it is an archive of something else: it holds {archive.namelist()[:5]}"
    return None


def load_last(folder, jit_compile=None):
    """The learner of the last checkpoint that can be read, and says so where it is not the last.

    Args:
        folder: `pathlib.Path` of a run, or of one learner in it.
        jit_compile: as in `load_model`.

    Returns:
        The learner, or None where there is no checkpoint.

    Raises:
        SystemExit: there are checkpoints and none can be read.
    """
    reasons = []
    # A kill between two renames leaves only the previous one: nothing is wrong with that.
    paths = [folder / name for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()]
    for path in paths:
        try:
            learner = load_model(path, jit_compile)
        except Exception as error:  # whatever broken bytes bring about in the readers below Keras
            reasons.append(f"{path} cannot be read ({one_line(error)})")
            continue
        if reasons:
            print(f"{reasons[0]}: going on from {path.name}, an epoch earlier.", file=sys.stderr)
            # Else the next epoch would put the damaged one in the place of the good one.
            path.replace(folder / CHECKPOINT)
        return learner
    if reasons:
        sys.exit(
            f"{'; '.join(reasons)}. Put a whole one there, or start anew: --fresh, or another "
            "--output."
        )
    return None


def load_best(folder, jit_compile=None):
    """The learner of the epoch that was best in validation.

    Args:
        folder: as in `load_last`.
        jit_compile: as in `load_model`.

    Raises:
        SystemExit: it cannot be read.
    """
    path = pathlib.Path(folder) / BEST
    try:
        return load_model(path, jit_compile)
    except Exception as error:  # as in `load_last`
        reason = one_line(error)
    sys.exit(
        f"{path} cannot be read ({reason}). Put a whole one there, or start anew: --fresh, or "
        "another --output."
    )


def one_line(error):
    """What an error says, in one line of 200 characters at most, without a full stop."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


def read_history(folder):
    """The rows of `history.csv`, each a dict of numbers by name; `seconds` is that of its epoch.

    Rows after one that is damaged are left out.
    """
    return [
        {name: float(value) for name, value in row.items() if value != "NA"}
        for row in _rows(pathlib.Path(folder) / HISTORY)[1]
    ]


def cut_history(folder, epochs, needed=False):
    """Drops the rows of epochs that will be run again.

    Args:
        folder: `pathlib.Path` of the learner's files.
        epochs: int, finished epochs.
        needed: bool, whether training depends on the rows: which epoch was best.

    Returns:
        The rows that are left, as `read_history` gives them.

    Raises:
        SystemExit: rows are missing that are needed.
    """
    names, rows = _rows(folder / HISTORY)
    if len(rows) < epochs:
        line = f"{folder / HISTORY} has {len(rows)} whole rows of {epochs} finished epochs"
        if needed:
            sys.exit(
                f"{line}, and which epoch was best stands there. Put a whole one there, or start "
                "anew: --fresh, or another --output."
            )
        print(f"{line}: the others are lost, the training is not.", file=sys.stderr)
    if names:
        _write(folder / HISTORY, names, rows[:epochs])
    return read_history(folder)


def _rows(path):
    """The header and the rows before the first damaged one: dicts of text."""
    if not path.exists():
        return [], []
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        try:
            names = list(reader.fieldnames or [])
            for row in reader:
                if None in row or not all(_is_number(value) for value in row.values()):
                    break
                rows.append(row)
        except csv.Error:
            return [], []
    return names, rows


def _is_number(text):
    # Keras' own logger names columns for a validation even where there is none: "NA".
    if text == "NA":
        return True
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _write(path, names, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, restval="NA", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    with files.whole(path) as beside:
        beside.write_text(text.getvalue(), encoding="utf-8", newline="")


class History(keras.callbacks.Callback):
    """Adds a row to `history.csv` after each epoch: Keras' logger may leave half of one."""

    def __init__(self, folder):
        super().__init__()
        self._path = folder / HISTORY

    def on_epoch_end(self, epoch, logs=None):
        """Writes the epoch's row."""
        names, rows = _rows(self._path)
        row = {"epoch": epoch, **(logs or {})}
        if not rows or not set(row) <= set(names):
            names = ["epoch", *sorted({*row, *(names if rows else ())} - {"epoch"})]
        _write(self._path, names, [*rows, row])


def average(learner):
    """Puts the moving average of the weights in their place, where the optimizer keeps one.

    So Keras does at the end of `fit`.

    Returns:
        The learner.
    """
    if _averages(learner):
        learner.optimizer.finalize_variable_values(learner.trainable_variables)
    return learner


def _averages(learner):
    # A trust region is no Keras optimizer.
    return getattr(learner.optimizer, "use_ema", False)


@contextlib.contextmanager
def averaged(learner):
    """While open, the weights are their moving average, where the optimizer keeps one.

    Keras' `SwapEMAWeights` swaps them by sums, which round, and the checkpoint of the last epoch
    would hold the average in the place of the weights.
    """
    kept = [(v, v.numpy()) for v in learner.trainable_variables] if _averages(learner) else []
    average(learner)
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)


class Averaged(keras.callbacks.Callback):
    """Validates the moving average of the weights, where the optimizer keeps one."""

    def __init__(self):
        super().__init__()
        self._open = contextlib.ExitStack()

    def on_test_begin(self, logs=None):
        """Puts the average in the place of the weights."""
        self._open.enter_context(averaged(self.model))

    def on_test_end(self, logs=None):
        """Puts the weights back."""
        self._open.close()


class Checkpoint(keras.callbacks.Callback):
    """Saves after each epoch, whole or not at all; the last callback, so that all else is done.

    A kill before the checkpoint is written has the epoch run again, with the same result; so a
    `best.keras` of that epoch, or its absence, does no harm.
    """

    def __init__(self, folder, monitor, best, sign=1):
        super().__init__()
        self._folder, self._monitor, self._best, self._sign = folder, monitor, best, sign

    def on_epoch_end(self, epoch, logs=None):
        """Writes the best epoch, where this is one, then the last."""
        score = self._sign * logs[self._monitor] if self._monitor else None
        if score is not None and (self._best is None or score > self._best):
            self._best = score
            with averaged(self.model), files.whole(self._folder / BEST) as beside:
                self.model.save(beside)
        last = self._folder / CHECKPOINT
        with files.whole(last) as beside:
            self.model.save(beside)
            # Both are whole now: after a kill between the renames the previous one is the last.
            if last.exists():
                last.replace(self._folder / PREVIOUS)
