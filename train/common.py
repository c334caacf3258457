"""What the training scripts share: their options, how they end, and the training itself."""

import argparse
import dataclasses
import math
import os
import pathlib
import sys
import time

import keras
import simple_parsing
import tensorflow as tf

from maml_tf import files
from train import checkpoints, options, progress
from train.checkpoints import read_history

# What a disk says through TensorFlow, which writes exports and logs.
_DISK = ("No space left", "quota exceeded", "File too large", "Read-only", "Permission denied")
_DISK += ("Input/output error", "Not a directory")


def use_threads_for_tasks():
    """One thread inside an operation, several tasks at a time: fastest for small networks.

    TensorFlow takes these settings only before its first operation.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)


def on_gpu():
    """Whether there is a GPU that TensorFlow uses."""
    return bool(tf.config.list_physical_devices("GPU"))


def switch(description):
    """A field of a settings dataclass that is False unless its option is given."""
    return simple_parsing.field(default=False, action="store_true", help=description)


def parse(settings_class, program, quick, recipes=None, least=None):
    """Reads the command line into a dataclass.

    Args:
        settings_class: dataclass whose fields have defaults, among them a `quick` switch.
        program: str, how the script is called.
        quick: dict, the defaults that `--quick` changes; options given beside it hold.
        recipes: dict of such dicts, those that `--recipe NAME` changes.
        least: dict of smallest values by name, where they are not those of `train.options`.

    Returns:
        A `settings_class`, whose numbers make sense.

    Raises:
        SystemExit: with status 2 and one line, for options that are unknown or make no sense.
    """
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    first.add_argument("--quick", action="store_true")
    first.add_argument("--recipe", nargs="?")  # what is missing is told by the parser below
    chosen = first.parse_known_args()[0]
    defaults = {**(recipes or {}).get(chosen.recipe, {}), **(quick if chosen.quick else {})}
    parser = options.Parser(
        prog=program,
        description=sys.modules[settings_class.__module__].__doc__,
        formatter_class=simple_parsing.SimpleHelpFormatter,
        add_option_string_dash_variants=simple_parsing.DashVariant.DASH,
    )
    parser.add_arguments(
        settings_class, dest="settings", default=settings_class(**defaults) if defaults else None
    )
    settings = parser.parse_args().settings
    options.check(settings, **(least or {}))
    return settings


def run(main, resumes=True):
    """Calls `main()`; Ctrl-C and what a disk refuses end the program in one line.

    So does a `sys.exit` with a message, which is about what the caller gave: with status 2. What a
    disk refuses ends it with 1, and Ctrl-C with 130, as usual.

    Args:
        main: function without arguments.
        resumes: bool, whether the program trains, and goes on where it was.
    """
    try:
        main()
    except SystemExit as error:
        if isinstance(error.code, str):
            options.refuse(error.code)
        raise
    except KeyboardInterrupt:
        more = " The same command goes on after the last finished epoch." if resumes else ""
        print(f"\nStopped.{more}", file=sys.stderr)
        sys.exit(130)
    except (OSError, tf.errors.OpError) as error:
        line = _disk_error(error)
        if line is None:
            raise
        more = (
            " What was finished before is kept: once that is mended, the same command goes on "
            "after the last finished epoch."
        )
        sys.exit(f"{line}.{more if resumes else ''}")


def _disk_error(error):
    """One line about a file that cannot be read or written; None for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split())
    return text if any(words.lower() in text.lower() for words in _DISK) else None


def train(
    make_learner,
    make_tasks,
    folder,
    *,
    iterations,
    epoch_iterations,
    validation=None,
    best=None,
    patience=None,
    tensorboard=False,
):
    """Trains a learner, or goes on with the training that `folder` holds, or finds it finished.

    A checkpoint holds everything that the next epoch depends on, and task batch `i` is a function
    of the seed and `i`: a run that was killed at any moment and resumed ends with the same bits
    as one that never stopped.

    Args:
        make_learner: function without arguments, a compiled learner.
        make_tasks: function of the index of the first batch, an endless data set of task batches.
        folder: path, where checkpoints and history go.
        iterations: int, training steps in all, a multiple of `epoch_iterations`.
        epoch_iterations: int, training steps an epoch, a multiple of `steps_per_execution`.
        validation: data set of task batches that every epoch ends with.
        best: str or None, metric of the validation; `best.keras` is the epoch where it is largest,
            or smallest where a minus stands before its name: "-val_loss".
        patience: int or None; training ends after so many epochs without a new best.
        tensorboard: bool, whether to write logs for TensorBoard.

    Returns:
        The learner after the last epoch.

    Raises:
        SystemExit: numbers of steps that do not fit, a longer run is there already, or what is
            there cannot be read.
        OSError: the folder cannot be written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(folder)
    sign, best = (-1, best[1:]) if best and best.startswith("-") else (1, best)
    fresh = make_learner()
    learner = checkpoints.load_last(folder, fresh.jit_compile)
    if learner is None:
        learner = fresh
    done = _iterations(learner)
    _check_steps(folder, done, iterations, epoch_iterations, learner.steps_per_execution)
    epoch = done // epoch_iterations
    history = checkpoints.cut_history(folder, epoch, needed=best is not None and done < iterations)
    if done >= iterations:
        return checkpoints.average(learner)
    scores = [sign * row[best] for row in history if best]
    if patience and scores and _epochs_since_best(scores) >= patience:
        return checkpoints.average(learner)
    terminal = progress.in_terminal()
    callbacks = [
        _Seconds(),
        checkpoints.Averaged(),
        progress.Progress(iterations, epoch_iterations, terminal),
        checkpoints.History(folder),
        *(
            [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]
            if tensorboard
            else []
        ),
        checkpoints.Checkpoint(folder, best, max(scores, default=None), sign),
        *([_EarlyStopping(best, patience, scores, sign)] if best and patience else []),
    ]
    if done:
        print(f"{folder}: resumed after {done:,} of {iterations:,} iterations.")
    learner.fit(
        make_tasks(done),
        initial_epoch=epoch,
        epochs=iterations // epoch_iterations,
        steps_per_epoch=epoch_iterations,
        validation_data=validation,
        callbacks=callbacks,
        shuffle=False,
        # A progress bar in a log file would be one line a step.
        verbose=1 if terminal else 2,
    )
    return learner


def _iterations(learner):
    """Training steps taken; a trust region is no Keras optimizer, its learner counts by itself."""
    counter = getattr(learner, "iteration", None)
    return int(learner.optimizer.iterations if counter is None else counter)


def card(data, result, settings, iterations):
    """What the model card of an exported learner says of its training.

    Args:
        data: str, what it learned from.
        result: the `maml_tf.evaluation.Result` on held-out tasks.
        settings: dataclass of the run; where its files lie is left out.
        iterations: int, meta-iterations.
    """
    places = ("output", "data_dir", "source", "csv_dir", "cache", "data", "start_from", "weights")
    kept = {k: v for k, v in dataclasses.asdict(settings).items() if k not in places}
    return {
        "data": data,
        "held_out": {
            "metric": result.metric,
            "mean": _finite(result.mean[-1]),
            "interval": _finite(result.interval[-1]),
            "inner_steps": result.inner_steps,
            "tasks": result.num_tasks,
        },
        "meta_iterations": iterations,
        "settings": kept,
    }


def _finite(number):
    """A number as JSON knows it: None where it is not finite."""
    return float(number) if math.isfinite(number) else None


def training_seconds(folder):
    """Wall-clock time of all epochs that training kept, over all resumes."""
    return sum(row["seconds"] for row in read_history(folder))


def _epochs_since_best(scores):
    """How many epochs ago the largest score came for the first time."""
    return len(scores) - 1 - scores.index(max(scores))


def _check_steps(folder, done, iterations, epoch_iterations, steps_per_execution):
    if iterations % epoch_iterations or epoch_iterations % steps_per_execution:
        sys.exit(
            f"--iterations must be a multiple of --epoch-iterations, and that of the "
            f"{steps_per_execution} steps in one call of the compiled function. Received: "
            f"--iterations {iterations} --epoch-iterations {epoch_iterations}."
        )
    if done > iterations:
        sys.exit(
            f"{folder} holds a run of {done} iterations already, more than --iterations "
            f"{iterations}. Give another --output, or --fresh to start anew."
        )


class _Seconds(keras.callbacks.Callback):
    """Adds the time of each epoch to what later callbacks log.

    `seconds` is that of the clock, validation included; `processor_seconds` what the training steps
    alone took of all cores, which says more where other programs run beside.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._start, self._processor_start = time.perf_counter(), time.process_time()
        self._validation_start = None

    def on_test_begin(self, logs=None):
        self._validation_start = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        end = self._validation_start or time.process_time()
        logs["seconds"] = time.perf_counter() - self._start
        logs["processor_seconds"] = end - self._processor_start


class _EarlyStopping(keras.callbacks.EarlyStopping):
    """Keras' own, with what it knew before the run was interrupted."""

    def __init__(self, monitor, patience, scores, sign):
        mode = "max" if sign > 0 else "min"
        super().__init__(monitor, patience=patience, mode=mode, verbose=1)
        self._scores, self._sign = scores, sign

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if self._scores:
            self.best = self._sign * max(self._scores)
            self.wait = _epochs_since_best(self._scores)
