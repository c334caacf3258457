"""Options of the scripts: what makes no sense is refused in one line, with exit status 2."""

import dataclasses
import math
import sys

import simple_parsing

# By name, whichever script has them: the smallest whole number that makes sense.
LEAST = {
    "ways": 2,
    "shots": 1,
    "queries": 1,
    "test_ways": 2,
    "test_shots": 1,
    "test_queries": 1,
    "iterations": 1,
    "epoch_iterations": 1,
    "meta_batch": 1,
    "inner_steps": 1,
    "steps_to_evaluate": 0,
    "test_inner_steps": 1,
    "patience": 1,
    "validation_tasks": 1,
    "test_tasks": 1,
    "strict_tasks": 1,
    "batch_size": 1,
    "points": 1,
    "test_points": 1,
    "image_size": 1,
    "filters": 1,
    "hidden": 1,
    "inputs": 1,
    "horizon": 1,
    "season": 1,
    "beginning": 2,
    "seeds": 1,
    "sheet_queries": 1,
    "vocabulary": 3,
    "length": 1,
    "dimensions": 1,
    "seed": 0,
}
# And those that must be positive and finite.
POSITIVE = (
    "step_size",
    "last_layer_step_size",
    "inner_step_size",
    "meta_learning_rate",
    "learning_rate",
    "clip_value",
    "clip_norm",
    "fine_tuning",
    "penalties",
    "shares",
)
# And those between 0 and 1, both left out.
FRACTIONS = ("ema_momentum",)


class Parser(simple_parsing.ArgumentParser):
    """The parser of simple-parsing, which tells an error in one line, without the usage."""

    def error(self, message):
        """Ends the program with exit status 2."""
        refuse(f"{self.prog}: {message}. --help lists the options.")


def refuse(message):
    """Ends the program: one line on standard error, exit status 2.

    Raises:
        SystemExit: whose `str` is the message.
    """
    line = " ".join(message.split())
    print(line, file=sys.stderr)
    error = SystemExit(line)
    error.code = 2
    raise error


def option(name):
    """The option of a field: `--meta-batch` of `meta_batch`."""
    return "--" + name.replace("_", "-")


def check(settings, **least):
    """Refuses numbers that make no sense, in all fields that have a rule.

    Args:
        settings: dataclass of a script; None stands for a number that the script fills in.
        **least: int, smallest values by the name of a field, before those of `LEAST`.

    Raises:
        SystemExit: naming the option and its value.
    """
    fields = [field.name for field in dataclasses.fields(settings)]
    rules = {**LEAST, **least}
    for name in fields:
        value = getattr(settings, name)
        if value == () and (name in rules or name in POSITIVE):
            refuse(
                f"Expected {option(name)} to have one number at least. Received: none. Give some, "
                "or leave the option out."
            )
        for one in value if isinstance(value, (list, tuple)) else (value,):
            _check_one(name, one, rules.get(name))
    # What the script fills in is None here, and checked when it is there.
    if None not in (getattr(settings, n, None) for n in ("iterations", "epoch_iterations")):
        _check_epochs(settings.iterations, settings.epoch_iterations)


def _check_one(name, value, least):
    if value is None:
        return
    if least is not None and value < least:
        refuse(
            f"Expected {option(name)} to be at least {least}. Received: {option(name)} {value}. "
            f"Give a whole number from {least} on."
        )
    if name in POSITIVE and not 0 < value < math.inf:
        refuse(
            f"Expected {option(name)} to be a positive number. Received: {option(name)} {value}. "
            "Give one such as 0.01."
        )
    if name in FRACTIONS and not 0 < value < 1:
        refuse(
            f"Expected {option(name)} to be between 0 and 1. Received: {option(name)} {value}. "
            "Give one such as 0.99."
        )


def _check_epochs(iterations, epoch_iterations):
    if iterations % epoch_iterations:
        refuse(
            "Expected --iterations to be a multiple of --epoch-iterations. Received: "
            f"--iterations {iterations} --epoch-iterations {epoch_iterations}. Give, for example, "
            f"--iterations {math.ceil(iterations / epoch_iterations) * epoch_iterations}."
        )
