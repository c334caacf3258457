"""Omniglot few-shot classification with MAML (Finn et al., 2017, section 5.2, table 1).

The defaults are the paper's: python -m train.omniglot --data-dir DIR --ways 5 --shots 1
"""

import dataclasses
from typing import Literal

import maml_tf
from train import classification, common

# Test accuracy in %, and its 95 % interval, by (network, ways, shots): table 1 of the paper.
PAPER = {
    ("dense5", 5, 1): (89.7, 1.1),
    ("dense5", 5, 5): (97.5, 0.6),
    ("conv4", 5, 1): (98.7, 0.4),
    ("conv4", 5, 5): (99.9, 0.1),
    ("conv4", 20, 1): (95.8, 0.3),
    ("conv4", 20, 5): (98.9, 0.2),
}
DRAWINGS = 20


@dataclasses.dataclass
class Settings(classification.Settings):
    """The defaults are the paper's."""

    split: Literal["paper", "alphabet"] = "paper"
    """Characters shuffled irrespective of alphabet (paper), or test on unseen alphabets."""
    output: str = "runs/omniglot"
    """Run directory: checkpoints, history, results, figures, exported model."""


def resolve(settings):
    """The settings with what the paper chose by the number of ways filled in.

    The paper's inner step size of 0.4 at 5 ways and 0.1 at 20 ways is on the sum over the ways:
    2.0 on the mean.
    """
    many = settings.ways > 5
    return classification.fill_in(
        settings,
        queries=settings.shots,
        test_queries=settings.shots,
        network="conv4",
        meta_batch=16 if many else 32,
        inner_steps=5 if many else 1,
        steps_to_evaluate=5 if many else 3,
        step_size=2.0,
    )


def make_tasks(settings, start=0):
    """Training tasks from batch `start` on, validation and test tasks."""
    return maml_tf.tasks.omniglot(
        **classification.task_options(settings),
        start=start,
        data_dir=settings.data_dir,
        download=settings.download,
        split=settings.split,
    )


def main():
    """Trains, evaluates the weights that were best on the validation tasks, and exports them."""
    quick = {**classification.QUICK, "meta_batch": 4, "output": "runs/omniglot-quick"}
    settings = resolve(
        common.parse(Settings, "python -m train.omniglot", quick, classification.RECIPES)
    )
    classification.run(
        settings,
        make_tasks,
        title=f"Omniglot, {settings.ways}-way {settings.shots}-shot",
        paper=PAPER.get((settings.network, settings.ways, settings.shots)),
        figure_queries=min(15, DRAWINGS - settings.shots),
        hint="As options of this script: --data-dir DIR, or --download.",
    )


if __name__ == "__main__":
    common.run(main)
