"""Omniglot few-shot classification with MAML (Finn et al., 2017, section 5.2, table 1).

The defaults are the paper's: python -m train.omniglot --data-dir DIR --ways 5 --shots 1
"""

import dataclasses
from typing import Literal

import maml_tf
from train import classification, common, image_learners

# Test accuracy in %, and its 95 % interval where there is one, by (method, network, ways, shots):
# table 1 of the paper, Snell et al. (2017) as reproduced by others, Nichol et al. (2018) with
# queries normalised together.
PAPER = {
    ("maml", "dense5", 5, 1): (89.7, 1.1),
    ("maml", "dense5", 5, 5): (97.5, 0.6),
    ("maml", "conv4", 5, 1): (98.7, 0.4),
    ("maml", "conv4", 5, 5): (99.9, 0.1),
    ("maml", "conv4", 20, 1): (95.8, 0.3),
    ("maml", "conv4", 20, 5): (98.9, 0.2),
    ("prototypical", "embedding", 5, 1): (98.2, None),
    ("prototypical", "embedding", 5, 5): (99.4, None),
    ("prototypical", "embedding", 20, 1): (95.8, None),
    ("prototypical", "embedding", 20, 5): (98.6, None),
    ("reptile", "conv4", 5, 1): (97.7, 0.1),
    ("reptile", "conv4", 5, 5): (99.5, 0.1),
    ("reptile", "conv4", 20, 1): (89.4, 0.1),
    ("reptile", "conv4", 20, 5): (97.1, 0.3),
}
DRAWINGS = 20


@dataclasses.dataclass
class Settings(classification.Settings):
    """The defaults are the paper's."""

    split: Literal["paper", "alphabet", "vinyals"] = "paper"
    """Characters shuffled irrespective of alphabet (paper), test on unseen alphabets, or the split
    of Vinyals et al. (2016), that of prototypical networks."""
    rotate: Literal["classes"] | None = None
    """Where not given, each character of a task is turned at random (paper); "classes" makes each
    of its four rotations a class of its own (Vinyals et al., prototypical networks)."""
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
        network=image_learners.default_network(settings, "conv4"),
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
        rotate=settings.rotate or True,
    )


def main():
    """Trains, evaluates the weights that were best on the validation tasks, and exports them."""
    quick = {**classification.QUICK, "meta_batch": 4, "output": "runs/omniglot-quick"}
    settings = resolve(
        common.parse(Settings, "python -m train.omniglot", quick, classification.RECIPES)
    )
    ways, shots = classification.tested(settings)
    paper = PAPER.get((settings.method, settings.network, ways, shots))
    classification.run(
        settings,
        make_tasks,
        title=f"Omniglot, {ways}-way {shots}-shot",
        paper=paper if settings.filters in (None, 64) else None,
        figure_queries=min(15, DRAWINGS - shots),
        hint="As options of this script: --data-dir DIR, or --download.",
    )


if __name__ == "__main__":
    common.run(main)
