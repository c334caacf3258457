"""Few-shot classification of sentences: strings go in, and classes that training has not seen.

python -m train.sentences --data data_full.json           CLINC150, github.com/clinc/oos-eval
python -m train.sentences --data my.csv --tokens words    columns "text" and "label"

A tokeniser of Keras turns sentences into numbers once; a prototypical network of embeddings is
trained on them. What comes out takes strings: `sentences.keras` and `saved_model/`.
"""

import csv
import dataclasses
import json
import pathlib
import sys
from typing import Literal

import keras
import numpy as np
import tensorflow as tf

import maml_tf
from maml_tf import backbones, evaluation, files, serving
from train import checkpoints, common, options, runs

BASELINE = "nearest class mean of token counts"


@dataclasses.dataclass
class Settings:
    """Which sentences, and what to learn from them."""

    data: str
    """A .json file, a list of [text, label] or a dict of such lists, which are put together; or a
    .csv file with the columns "text" and "label"; with --quick sentences are drawn."""
    leave_out: list[str] = dataclasses.field(default_factory=lambda: ["oos"])
    """Labels that are no class of their own, such as CLINC150's "oos"."""
    ways: int = 5
    """N, classes a task tells apart."""
    shots: int = 5
    """K, labelled sentences of each class."""
    queries: int = 15
    """Query sentences of each class."""
    tokens: Literal["words", "characters"] = "characters"
    """Tokens are words, or runs of two to four characters, which words that are new share with
    known ones."""
    vocabulary: int = 12_000
    """Most tokens, the commonest of the training classes."""
    length: int = 256
    """Tokens of a sentence; what is beyond is cut off."""
    dimensions: int = 128
    """Numbers of an embedding."""
    iterations: int = 600
    """Meta-iterations in all; a finished run goes on when this is raised."""
    epoch_iterations: int = 100
    """Meta-iterations from one checkpoint and validation to the next."""
    meta_batch: int = 8
    """Tasks in a meta-iteration."""
    meta_learning_rate: float = 1e-3
    """Step size of the outer optimizer, Adam."""
    validation_tasks: int = 200
    """Validation tasks after each epoch, always the same ones."""
    test_tasks: int = 600
    """Test tasks of the final evaluation."""
    seed: int = 0
    """Seed of the split, the initial weights and all tasks."""
    cache: str | None = None
    """Where to keep the tokens, so that the next start is faster."""
    output: str = "runs/sentences"
    """Run directory: checkpoints, history, results, exported model."""
    fresh: bool = common.switch("Delete what the run directory holds and start anew.")
    quick: bool = common.switch("A tiny run of some seconds on drawn sentences.")


def _drawn():
    """Sentences for --quick: 40 classes, each of words of three letters of its own."""
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnop"))
    rows = []
    for label in range(40):
        own = random.choice(letters, 3, replace=False)
        for _ in range(24):
            words = ["".join(random.choice(own, 4)) for _ in range(5)]
            rows.append((" ".join(words), f"class {label}"))
    return rows


def read(settings):
    """Texts and labels, two arrays of str.

    Raises:
        SystemExit: the file is not there, or not one of sentences.
    """
    if settings.quick and not settings.data:
        return tuple(np.array(part) for part in zip(*_drawn(), strict=True))
    path = pathlib.Path(settings.data)
    try:
        rows = _of_csv(path) if path.suffix == ".csv" else _of_json(path)
    except OSError as error:
        sys.exit(
            f"Expected --data to be a file of sentences. Received: --data {path}: "
            f"{error.strerror}. Give another."
        )
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        sys.exit(
            "Expected --data to be a .json file of [text, label] or a .csv file with the columns "
            f'"text" and "label". Received: --data {path}: {type(error).__name__}: {error}. Give '
            "it one of these forms."
        )
    kept = [(text, label) for text, label in rows if label not in settings.leave_out]
    if not kept:
        sys.exit(f"Expected sentences in --data {path}. Received: none. Give another file.")
    return tuple(np.array(part) for part in zip(*kept, strict=True))


def _of_csv(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def _of_json(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    lists = content.values() if isinstance(content, dict) else [content]
    return [(_text(text), _text(label)) for rows in lists for text, label in rows]


def _text(value):
    if not isinstance(value, str):
        raise TypeError(f"text and label are str, not {value!r}")
    return value


def tokeniser(settings, texts):
    """A `keras.Model` from strings `[n]` to tokens `[n, length]`, 0 for padding."""
    kind = {"words": {}, "characters": {"split": "character", "ngrams": (2, 3, 4)}}
    layer = keras.layers.TextVectorization(
        settings.vocabulary, output_sequence_length=settings.length, **kind[settings.tokens]
    )
    layer.adapt(texts)
    return keras.Sequential([keras.Input((), dtype="string"), layer], name="tokeniser")


def make_sets(settings, texts, labels):
    """Task sets of strings: 2/3 of the classes train, 2/15 validate, 1/5 test."""
    names = [field.name for field in dataclasses.fields(maml_tf.tasks.Episodes)]
    few = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
    shares = {"split": (2 / 3, 2 / 15, 1 / 5), "split_seed": settings.seed}
    try:
        sets = maml_tf.tasks.classes(texts, labels, **few, **shares)
    except ValueError as error:
        sys.exit(str(error))
    return sets, set(sets.drawn_from["train"][0].labels.tolist())


def make_learner(settings):
    """Class means of the mean embedding of a sentence's tokens, without padding."""
    keras.utils.set_random_seed(settings.seed)
    tokens = keras.Input((settings.length,), dtype="int64")
    embedded = keras.layers.Embedding(settings.vocabulary, settings.dimensions)(tokens)
    # Keras' own average of a masked sequence is NaN for a sentence of no token at all.
    counted = keras.ops.cast(keras.ops.not_equal(tokens, 0), "float32")
    total = keras.ops.sum(embedded * keras.ops.expand_dims(counted, -1), axis=1)
    number = keras.ops.sum(counted, axis=1, keepdims=True)
    mean = total / keras.ops.maximum(number, 1.0)
    network = keras.Model(tokens, keras.layers.Dense(settings.dimensions)(mean))
    learner = maml_tf.Prototypical(
        network, distance="cosine", ways=settings.ways, learned_scale=True
    )
    learner.scale.assign(10.0)
    learner.compile(
        keras.optimizers.Adam(settings.meta_learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return learner


def counts(settings, tasks):
    """The same tasks, of how often each token stands in a sentence."""

    def counted(x):
        rows = tf.reshape(x, [-1, settings.length])
        size = settings.vocabulary
        found = tf.math.bincount(tf.cast(rows, tf.int32), minlength=size, maxlength=size, axis=-1)
        found = tf.cast(found[:, 1:], tf.float32)  # without padding
        return tf.reshape(found, [*x.shape[:2], size - 1])

    def of_batch(inputs, query_y):
        made = {k: counted(x) if k.endswith("_x") else x for k, x in inputs.items()}
        return made, query_y

    return tasks.map(of_batch)


def main():
    """Trains, evaluates the weights that were best on the validation tasks, and exports them."""
    quick = {"data": "", "iterations": 20, "epoch_iterations": 10, "validation_tasks": 8}
    quick |= {"test_tasks": 8, "vocabulary": 1000, "length": 64, "output": "runs/sentences-quick"}
    settings = common.parse(Settings, "python -m train.sentences", quick, {None: {"data": ""}})
    if not settings.data and not settings.quick:
        options.refuse(
            "Expected --data, a file of sentences. Received: none. Give one, or --quick to see it."
        )
    texts, labels = read(settings)
    sets, trained_on = make_sets(settings, texts, labels)
    front = tokeniser(settings, texts[[label in trained_on for label in labels]])
    tokens = backbones.features(sets, front, cache=settings.cache, batch_size=256)
    free, digest = ("iterations", "test_tasks", "cache"), runs.digest(settings.data)
    folder = runs.open_run(settings, free, digest_of_data=digest)
    start = tokens[0]
    trained = common.train(
        lambda: make_learner(settings),
        start.skip,
        folder,
        iterations=settings.iterations,
        epoch_iterations=settings.epoch_iterations,
        validation=tokens[1],
        best=None if tokens[1] is None else "val_accuracy",
    )
    learner = trained
    if tokens[1] is not None:
        learner = checkpoints.load_best(folder, trained.jit_compile)
    report(settings, folder, learner, front, tokens[2], int(trained.optimizer.iterations))


def report(settings, folder, learner, front, test, iterations):
    """Prints and writes what came of it, and saves and exports what takes strings."""
    result = evaluation.evaluate(learner, test, settings.test_tasks)
    means = evaluation.nearest_class_mean(counts(settings, test), settings.test_tasks)
    seconds = common.training_seconds(folder)
    print(
        f"\n{settings.ways}-way {settings.shots}-shot, sentences of classes that training has not "
        f"seen: test accuracy {_percent(result)} (mean and 95 % interval over "
        f"{settings.test_tasks} tasks).\nTo compare: chance {100 / settings.ways:.1f} %, "
        f"{BASELINE} {_percent(means)}.\nTraining took {iterations:,} meta-iterations and "
        f"{seconds / 60:.1f} minutes."
    )
    content = {
        "settings": dataclasses.asdict(settings),
        "iterations": iterations,
        "training_seconds": seconds,
        "chance": 1 / settings.ways,
        "nearest_class_mean_of_counts": means.to_dict(values=False),
        "test": result.to_dict(),
    }
    runs.write_json(folder / "results.json", content)
    whole = backbones.WithBackbone(front, learner)
    with files.whole(folder / "sentences.keras") as beside:
        whole.save(beside)
    title = f"sentences, {settings.ways}-way {settings.shots}-shot"
    card = common.card(title, result, settings, iterations)
    with files.whole_folder(folder / "saved_model", replace=True) as beside:
        serving.export(whole, beside, card=card)
    print(f"Results and the exported model, which takes strings, are in {folder}.")


def _percent(result):
    return f"{100 * result.mean[-1]:.1f} ± {100 * result.interval[-1]:.1f} %"


if __name__ == "__main__":
    common.run(main)
