"""Adapts a trained model to labelled pictures of your own, and has it name others.

python -m train.adapt --model MODEL --support FOLDER --query FOLDER
python -m train.adapt --backbone mobilenet_v2 --support FOLDER --query FOLDER

The second line needs no trained model: it takes class means of the features of a network that was
pretrained on ImageNet, which Keras downloads once. For photographs of everyday things begin there.
SUPPORT holds one folder per class with a few pictures each. QUERY holds pictures, or the same
class folders where the answers are known. Writes predictions.csv and answers.png into --output.
"""

import csv
import dataclasses
import pathlib
import sys
from typing import Literal, NamedTuple

import numpy as np

from maml_tf import backbones, files, image_plots
from maml_tf.evaluation import baselines
from train import common, heads, picture_folders, picture_models, reporting, runs

_PRINTED, _WIDTH = 20, 32  # rows of the printed table, characters of a cell


@dataclasses.dataclass
class Settings:
    """What to adapt, to which pictures."""

    support: str
    """Folder with one folder of labelled pictures per class."""
    query: str
    """Folder with pictures to name, or with the class folders of SUPPORT: then right and wrong
    answers are counted. An exported model with transductive batch normalisation (the default)
    normalises the queries by themselves: give it pictures of several classes at once."""
    model: str | None = None
    """A .keras file of a learner, or an exported model: its folder of versions or one version."""
    backbone: Literal[backbones.networks.NAMES] | None = None
    """In the place of --model: a network pretrained on ImageNet, whose features are compared."""
    weights: str | None = None
    """Of --backbone: "imagenet" (the default), which Keras downloads once, or a file of weights."""
    image_size: int | None = None
    """Of --backbone: height and width in pixels; 224 by default."""
    inner_steps: int | None = None
    """Steps of adaptation. Where not given, a .keras file takes as many as in its training, and an
    exported model as many as it was exported with: those of --steps-to-evaluate."""
    invert: bool = common.switch(
        "Make dark light: for dark ink on paper, where the model was trained on ink = 1 on a "
        "ground of 0, as Omniglot's models are."
    )
    on_error: Literal["raise", "skip"] = "raise"
    """Whether to stop at a file that cannot be decoded, or to go on without it."""
    follow_links: bool = common.switch("Links in the folders may lead out of them.")
    sheet_queries: int = 60
    """Most queries on the contact sheet: of more, wrong answers and uncertain ones come first."""
    output: str = "runs/adapt"
    """Folder for predictions.csv and answers.png, which are overwritten."""


class Answers(NamedTuple):
    """The two likeliest classes of each query, int `[Q, 2]`, and their probabilities `[Q, 2]`."""

    classes: np.ndarray
    probabilities: np.ndarray


def main():
    """Adapts, answers, writes the table and the contact sheet."""
    # All settings that must be given are left to the parser, which names those that are not.
    required = {"support": "", "query": ""}
    least = {"inner_steps": 0}
    settings = common.parse(Settings, "python -m train.adapt", required, least=least)
    try:
        model = open_model(settings)
        names, support = picture_folders.read_support(settings, model)
        queries = picture_folders.read_queries(settings, model, names)
        answers = answer(settings, model, names, support, queries)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(str(error))
    folder = pathlib.Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    rows = table(settings, names, queries, answers)
    with (
        files.whole(folder / "predictions.csv") as beside,
        beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    title = report(rows, support, names, queries.labels is not None)
    if queries.labels is not None:
        compare(names, support, queries, answers, model.backbone)
    recommend(settings, model)
    sheet = draw(settings, names, support, queries, answers, title)
    runs.save_figure(sheet, folder / "answers.png")
    print(f"The table and the contact sheet are in {folder}.")


def open_model(settings):
    """The model of --model, or that of class means of the features of --backbone.

    Raises:
        ValueError: both are given, or none, or options that belong to the other one.
    """
    if (settings.model is None) == (settings.backbone is None):
        raise ValueError(
            "Expected one of --model and --backbone. Received: "
            f"{'none of them' if settings.model is None else 'both'}. Give --model with a trained "
            "model, or --backbone mobilenet_v2 for one that was pretrained on ImageNet."
        )
    if settings.backbone is None:
        heads.check(settings)
        if settings.image_size is not None:
            raise ValueError(
                "Expected no --image-size beside --model, which has its own. Received: "
                f"--image-size {settings.image_size}. Leave it out."
            )
        return picture_models.open_model(settings.model, settings.inner_steps)
    if settings.inner_steps is not None:
        raise ValueError(
            "Expected no --inner-steps beside --backbone, whose class means take none. Received: "
            f"--inner-steps {settings.inner_steps}. Leave it out."
        )
    return picture_models.of_backbone(heads.open_backbone(settings))


def recommend(settings, model):
    """Prints what to try where the model has not seen the world."""
    if model.backbone is None and model.shape[-1] == 3:
        print(
            "For photographs of everyday things, try --backbone mobilenet_v2 in the place of "
            "--model: a network pretrained on ImageNet (Keras downloads its weights once, 9 MB), "
            "whose class means need no training."
        )


def answer(settings, model, names, support, queries):
    """Adapts to the support pictures and names the queries.

    Where there are fewer classes than outputs, the first ones are used: labels are 0 to n - 1 and
    the other outputs are left out of the probabilities.

    Raises:
        ValueError: the model's answers are not finite.
    """
    if model.shape[-1] == 1 and not settings.invert and support.images.mean() > 127:
        print(
            "The pictures are bright. If the model was trained on light ink on a dark ground, as "
            "Omniglot's, give --invert."
        )
    labels = support.labels
    if len(model.y_spec.shape) == 2:
        labels = np.eye(model.outputs)[labels]
    scores = model.answer(
        _scaled(support.images, settings.invert),
        np.asarray(labels, model.y_spec.dtype.as_numpy_dtype),
        _scaled(queries.images, settings.invert),
    )
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("The answers are not finite: adapting ran away. Try fewer --inner-steps.")
    chances = _probabilities(scores, len(names))
    order = np.argsort(-chances, axis=-1, kind="stable")[:, :2]
    return Answers(order, np.take_along_axis(chances, order, axis=-1))


def _scaled(images, invert):
    images = images.astype(np.float32) / 255
    return 1 - images if invert else images


def _probabilities(scores, classes):
    """Rows that are positive and add up to 1 are probabilities already, others are logits."""
    if scores.min() >= 0 and np.allclose(scores.sum(axis=-1), 1, atol=1e-3):
        scores = np.log(np.maximum(scores, 1e-30))
    scores = scores[:, :classes]
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def table(settings, names, queries, answers):
    """One dict a query, the columns of predictions.csv."""
    rows = []
    for i, path in enumerate(queries.paths):
        (first, second), (likely, less) = answers.classes[i], answers.probabilities[i]
        rows.append(
            {
                "file": path.relative_to(settings.query).as_posix(),
                "predicted": names[first],
                "probability": f"{likely:.4f}",
                "true": "" if queries.labels is None else names[queries.labels[i]],
                "runner_up": names[second],
                "runner_up_probability": f"{less:.4f}",
            }
        )
    return rows


def report(rows, support, names, known):
    """Prints the first rows and what came of them; that line is also the sheet's title."""
    shown = [list(rows[0])] + [list(row.values()) for row in rows[:_PRINTED]]
    shown = [[image_plots.shorten(cell, _WIDTH) for cell in row] for row in shown]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    if len(rows) > _PRINTED:
        print(f"and {len(rows) - _PRINTED} more in predictions.csv")
    title = f"{len(names)} classes, {len(support.paths)} support pictures, {len(rows)} queries"
    if known:
        right = sum(row["predicted"] == row["true"] for row in rows)
        title += f": {right} right, {100 * right / len(rows):.1f} %"
    print(f"\n{title}.")
    return title


def compare(names, support, queries, answers, backbone=None):
    """Prints how sure the share of right answers is, and what to hold it against."""
    right = int(np.sum(answers.classes[:, 0] == queries.labels))
    low, high = reporting.interval_of_share(right, len(queries.labels))
    nearest = support.labels[
        baselines.nearest_support(support.images[np.newaxis], queries.images[np.newaxis])[0]
    ]
    print(
        f"95 % interval: {100 * low:.0f} to {100 * high:.0f} %. To compare: chance "
        f"{100 / len(names):.1f} %, {reporting.BASELINE} "
        f"{100 * np.mean(nearest == queries.labels):.1f} %."
    )
    if backbone is not None:
        features = [
            backbone.predict(_scaled(p.images, False), verbose=0) for p in (support, queries)
        ]
        nearest = baselines.nearest_mean(features[0], support.labels, features[1])
        print(
            f"The {heads.BASELINE}, without any training: "
            f"{100 * np.mean(nearest == queries.labels):.1f} %."
        )


def draw(settings, names, support, queries, answers, title):
    """The contact sheet, as the pictures were given to the model but not inverted."""
    count = len(queries.paths)
    predicted, probability = answers.classes[:, 0], answers.probabilities[:, 0]
    shown = np.arange(count)
    if count > settings.sheet_queries:
        right = np.ones(count) if queries.labels is None else predicted == queries.labels
        shown = np.lexsort([probability, right])[: settings.sheet_queries]
        title += f"; of these the {len(shown)} wrong or least certain"
    return image_plots.contact_sheet(
        (support.images, support.labels),
        queries.images[shown],
        names,
        predicted[shown],
        probability[shown],
        None if queries.labels is None else queries.labels[shown],
        captions=[queries.paths[i].name for i in shown],
        title=title,
    )


if __name__ == "__main__":
    common.run(main, resumes=False)
