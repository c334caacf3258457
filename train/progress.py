"""What a training says of itself while it runs: how far it is, and how long it will take."""

import math
import sys
import time

import keras

# Runs that take less are through before anyone wonders.
_LONG = 120


class Progress(keras.callbacks.Callback):
    """A line about once a minute where there is no terminal, and an estimate where a run is long.

    Keras draws a bar in a terminal; elsewhere it prints a line at the end of each epoch, which may
    be an hour away.

    Args:
        iterations: int, meta-iterations in all.
        epoch_iterations: int, of them in an epoch.
        terminal: bool, whether Keras draws its bar.
        every: seconds between two lines.
        clock: function without arguments, seconds.
    """

    def __init__(self, iterations, epoch_iterations, terminal, every=60, clock=time.perf_counter):
        super().__init__()
        self._iterations, self._epoch_iterations = iterations, epoch_iterations
        self._terminal, self._every, self._clock = terminal, every, clock
        # Of the steps since the last line: how many, and their seconds.
        self._steps, self._seconds = 0, 0.0
        self._at = self._last_end = None
        self._between = 0.0  # seconds from an epoch's last step to the next one's first
        self._estimated = False

    def on_train_begin(self, logs=None):
        """Begins to wait for the first line."""
        self._printed = self._clock()

    def on_epoch_begin(self, epoch, logs=None):
        """Measures what lay between two epochs: validation and checkpoints."""
        now = self._clock()
        self._epoch, self._at = epoch, -1
        if self._last_end is not None:
            self._between = now - self._last_end
            self._last_end = now

    def on_train_batch_end(self, batch, logs=None):
        """Counts, and prints where it is time."""
        now = self._clock()
        # The first step of all is traced and compiled, which is not how the others go.
        if self._last_end is not None:
            self._steps += batch - self._at
            self._seconds += now - self._last_end
        self._at, self._last_end = batch, now
        done = self._epoch * self._epoch_iterations + batch + 1
        if not self._estimated and self._steps >= 3 and self._seconds >= min(5, self._every):
            self._estimated = True
            self._estimate(done)
        if not self._terminal and now - self._printed >= self._every and self._steps:
            self._say(
                f"iteration {done:,} of {self._iterations:,}: {measured(logs)}; "
                f"{self._seconds / self._steps:.3g} s an iteration, {self._left(done)} left"
            )
            self._steps, self._seconds = 0, 0.0

    def on_test_batch_end(self, batch, logs=None):
        """Validation may take minutes, too."""
        if not self._terminal and self._clock() - self._printed >= self._every:
            self._say(f"validation, {batch + 1:,} batches of tasks so far: {measured(logs)}")

    def on_epoch_end(self, epoch, logs=None):
        """Keras prints the epoch's line now."""
        self._printed = self._clock()

    def _estimate(self, done):
        left = self._remaining(done)
        if left >= _LONG:
            # Below the bar, which then goes on in a line of its own.
            self._say(
                ("\n" if self._terminal else "")
                + f"The {self._iterations - done:,} iterations left take about {words(left)}, "
                f"{self._seconds / self._steps:.3g} s each"
                + ("." if self._between else ", and validation beside.")
            )

    def _remaining(self, done):
        epochs = math.ceil((self._iterations - done) / self._epoch_iterations)
        return (self._iterations - done) * self._seconds / self._steps + epochs * self._between

    def _left(self, done):
        return "about " + words(self._remaining(done))

    def _say(self, line):
        self._printed = self._clock()
        print(line, flush=True)


def in_terminal():
    """Whether what is printed is seen at once, by someone whom a bar may please."""
    return sys.stdout.isatty()


def measured(logs):
    """Losses and metrics so far in this epoch, as text; those before adaptation are left out."""
    kept = {k: v for k, v in (logs or {}).items() if not k.endswith(("_before", "seconds"))}
    return ", ".join(f"{name} {value:.4g}" for name, value in kept.items())


def words(seconds):
    """A duration as one says it: "40 s", "12 min", "2 h 5 min", "3 days 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} days {hours % 24} h"
