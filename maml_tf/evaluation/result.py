"""What a measurement gives: a metric of each task and inner step, its mean and 95 % interval."""

import dataclasses
import json
import os
import pathlib
from typing import Any, Self

import numpy as np

from maml_tf import arguments, files


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A metric of each task at the initial weights and after each inner step.

    A task whose value is NaN or infinite makes the mean of its step NaN or infinite: nothing is
    left out. `non_finite` counts such tasks, and the median, where a NaN counts as the largest
    value, says how the others do.

    Attributes:
        metric: str, what was measured.
        values: float64 array `[num_tasks, inner_steps + 1]`.
    """

    metric: str
    values: np.ndarray

    def __post_init__(self):
        if not isinstance(self.metric, str):
            raise TypeError(
                "Expected `metric` to be a name. Received: "
                f"{arguments.received('metric', self.metric)}. Give it as text."
            )
        shape = np.shape(self.values)
        if len(shape) != 2 or 0 in shape or np.asarray(self.values).dtype.kind not in "fiu":
            raise ValueError(
                "Expected `values` to be numbers [num_tasks, inner_steps + 1], of one task at "
                f"least. Received: {arguments.received('values', self.values)}. Give an array of "
                "this shape."
            )

    @property
    def num_tasks(self) -> int:
        """`int`, tasks that were measured."""
        return self.values.shape[0]

    @property
    def inner_steps(self) -> int:
        """`int`, the largest number of inner steps."""
        return self.values.shape[1] - 1

    @property
    def mean(self) -> np.ndarray:
        """Mean over tasks, `[inner_steps + 1]`."""
        with np.errstate(all="ignore"):
            return self.values.mean(axis=0)

    @property
    def interval(self) -> np.ndarray:
        """Half-width of the 95 % interval of the mean, 1.96 sd / sqrt(tasks), as the authors'."""
        with np.errstate(all="ignore"):
            return 1.96 * self.values.std(axis=0) / np.sqrt(self.num_tasks)

    @property
    def median(self) -> np.ndarray:
        """Median over tasks, `[inner_steps + 1]`."""
        return np.median(np.where(np.isnan(self.values), np.inf, self.values), axis=0)

    @property
    def non_finite(self) -> np.ndarray:
        """Number of tasks whose value is NaN or infinite, `[inner_steps + 1]`."""
        return np.sum(~np.isfinite(self.values), axis=0)

    def table(self) -> str:
        """The numbers of every step as a Markdown table, `str`."""
        lines = [
            f"| inner steps | {self.metric}, mean ± 95 % | median | tasks not finite |",
            "|---:|---:|---:|---:|",
        ]
        rows = zip(self.mean, self.interval, self.median, self.non_finite, strict=True)
        lines += [
            f"| {step} | {number(mean)} ± {number(interval)} | {number(median)} "
            f"| {bad} of {self.num_tasks} |"
            for step, (mean, interval, median, bad) in enumerate(rows)
        ]
        return "\n".join(lines)

    def to_dict(self, values: bool = True) -> dict[str, Any]:
        """Everything as lists and numbers that JSON can hold; non-finite numbers as strings.

        Args:
            values: `bool`, whether to give the value of every task beside the summary.
        """
        summary = {
            "metric": self.metric,
            "num_tasks": self.num_tasks,
            "inner_steps": self.inner_steps,
            "mean": _listed(self.mean),
            "interval": _listed(self.interval),
            "median": _listed(self.median),
            "non_finite": self.non_finite.tolist(),
        }
        return {**summary, "values": _listed(self.values)} if values else summary

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes `to_dict()` to a file, whole or not at all."""
        with files.whole(path) as beside:
            beside.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> Self:
        """A `Result` from what `to_json` wrote.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: it holds something else.
        """
        try:
            content = json.loads(pathlib.Path(path).read_text())
            return cls(content["metric"], np.asarray(content["values"], np.float64))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise ValueError(
            "Expected a file that `Result.to_json` wrote. Received: "
            f"{arguments.received('path', path)}, which is none ({reason}). Give another, or "
            "measure again."
        )


def number(value: float) -> str:
    """A value as text with four decimals, or in powers of ten where it has run away."""
    return f"{value:.4f}" if not abs(value) >= 1e4 else f"{value:.2e}"


def _listed(array):
    """Nested lists of numbers; what JSON has no number for as "nan", "inf" or "-inf"."""
    if array.ndim:
        return [_listed(row) for row in array]
    return float(array) if np.isfinite(array) else str(float(array))
