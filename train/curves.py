"""Trainings beside each other, against meta-iterations and against time.

python -m train.curves runs/second runs/first --names "second order" "first order" --output F.png

Time is that of the training steps on all cores, which other programs on the same machine hardly
lengthen; validation is left out.
"""

import dataclasses
import json
import pathlib
import sys

import simple_parsing

from maml_tf import plots
from train import checkpoints, common, runs


@dataclasses.dataclass
class Settings:
    """Which runs, and what of them."""

    runs: list[str] = simple_parsing.field(positional=True, nargs="+", metavar="RUN")
    """Run directories of the scripts of this folder."""
    names: list[str] = dataclasses.field(default_factory=list)
    """What to call the runs, in their order; as their folders where not given."""
    metric: str = "val_accuracy"
    """What to draw, a column of their history.csv."""
    title: str | None = None
    """Above the figure."""
    chance: float | None = None
    """The accuracy of guessing, such as 0.2: a dotted line across."""
    output: str = "curves.png"
    """The figure, a .png, .svg or .pdf file."""


def read(folder):
    """The rows of a run, and its meta-iterations an epoch.

    Raises:
        SystemExit: there is no such run.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        epoch_iterations = int(config["epoch_iterations"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(
            "Expected a run directory of a script of this folder. Received: "
            f"{folder} ({type(error).__name__}: {checkpoints.one_line(error)}). Give the --output "
            "of a training."
        )
    return checkpoints.read_history(folder), epoch_iterations


def main():
    """Reads the runs, and draws them."""
    settings = common.parse(Settings, "python -m train.curves", {})
    if pathlib.Path(settings.output).suffix not in (".png", ".svg", ".pdf"):
        sys.exit(
            "Expected --output to end in .png, .svg or .pdf. Received: --output "
            f"{settings.output}. Give, for example, curves.png."
        )
    names = settings.names or [pathlib.Path(run).name for run in settings.runs]
    if len(names) != len(settings.runs) or len(set(names)) != len(names):
        sys.exit(
            "Expected --names to have a name of its own for each run. Received: --names "
            f"{' '.join(names)} for {len(settings.runs)} runs. Give so many different ones."
        )
    read_runs = [read(pathlib.Path(run)) for run in settings.runs]
    try:
        figure = plots.learning_curves(
            {name: rows for name, (rows, _) in zip(names, read_runs, strict=True)},
            settings.metric,
            epoch_iterations={name: n for name, (_, n) in zip(names, read_runs, strict=True)},
            title=settings.title,
            chance=settings.chance,
        )
    except ValueError as error:
        sys.exit(str(error))
    runs.save_figure(figure, settings.output)
    print(f"Drawn into {settings.output}.")


if __name__ == "__main__":
    common.run(main, resumes=False)
