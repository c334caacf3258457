"""Sentences: a tokeniser in front, masks behind it, and strings in `adapt`, exports and servers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import backbones
from maml_tf.tasks import sampling, splits
from tests.problems import layers

WORDS = ["red", "blue", "green", "pay", "bill", "song", "play", "rain", "sun"]
LONGEST = 6


def sentences():
    """Texts and labels: a class has three words of its own, a sentence one to five of them."""
    rng = np.random.default_rng(0)
    texts = [
        " ".join(rng.choice(WORDS[3 * c : 3 * c + 3], rng.integers(1, 6)))
        for c in range(3)
        for _ in range(8)
    ]
    return np.array(texts), np.repeat(["colours", "money", "weather"], 8)


def tokeniser(length=LONGEST):
    layer = layers.TextVectorization(output_sequence_length=length)
    layer.adapt(WORDS)
    return keras.Sequential([keras.Input((), dtype="string"), layer])


def network(length=LONGEST, outputs=3):
    """An embedding whose mask an average and a recurrent layer respect."""
    keras.utils.set_random_seed(0)
    tokens = keras.Input((length,), dtype="int64")
    embedded = layers.Embedding(len(WORDS) + 2, 4, mask_zero=True)(tokens)
    both = [layers.GlobalAveragePooling1D()(embedded), layers.SimpleRNN(3)(embedded)]
    return keras.Model(tokens, layers.Dense(outputs)(layers.Concatenate()(both)))


def learner_of(kind, length=LONGEST):
    if kind == "maml":
        learner = maml_tf.MAML(network(length), 0.5, inner_steps=2, task_map="loop")
    else:
        learner = maml_tf.Prototypical(network(length), ways=3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner.compile("adam", loss, metrics=["accuracy"])
    return learner


def test_tasks_of_strings_become_tasks_of_tokens(tmp_path):
    texts, labels = sentences()
    classes = sampling.index_by_class(texts[:, np.newaxis], labels)
    few = maml_tf.tasks.Episodes(ways=3, shots=1, queries=1, meta_batch=2, test_tasks=2)
    everything = np.arange(3)
    sets = splits.three_way(classes, [everything, everything[:0], everything], few)
    made = backbones.features(sets, tokeniser(), cache=tmp_path)
    (strings, _), (tokens, _) = (next(iter(tasks[2])) for tasks in (sets, made))
    assert strings["query_x"].dtype == tf.string
    for task in range(2):
        expected = tokeniser()(strings["query_x"][task])
        np.testing.assert_array_equal(tokens["query_x"][task], expected)
    whole = backbones.WithBackbone(tokeniser(), learner_of("maml"))
    path = whole.predict_path(strings, 1)
    np.testing.assert_allclose(path, whole.learner.predict_path(tokens, 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["maml", "prototypical"])
def test_padding_changes_nothing(kind):
    """Also in the inner loop: sentences twice as long, filled up with padding, adapt alike."""
    texts, _ = sentences()
    answers = []
    for length in (LONGEST, 2 * LONGEST):
        whole = backbones.WithBackbone(tokeniser(length), learner_of(kind, length))
        adapted = whole.adapt(texts[::4], np.repeat(np.arange(3), 2))
        answers.append(adapted.predict(texts, verbose=0))
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-5)
    assert np.ptp(answers[0]) > 0.01


def test_text_comes_as_numpys_text_or_as_a_list():
    texts, _ = sentences()
    whole = backbones.WithBackbone(tokeniser(), learner_of("maml"))
    adapted = whole.adapt(texts[::4], np.repeat(np.arange(3), 2))
    expected = adapted.predict(tf.constant(texts), verbose=0)
    for same in (texts, texts.tolist(), texts.astype(object), texts.astype("S")):
        np.testing.assert_array_equal(adapted.predict(same, verbose=0), expected)


WRONG_TEXT = {
    "nothing": (
        np.array(["red", None, "pay"], object),
        r"1 entries that are no text, such as None",
    ),
    "mixed": (np.array(["red", 1.5, "pay"], object), r"1 entries that are no text, such as 1.5"),
    "numbers": (np.array([1, 2, 3]), r"to be text, for the input .* of dtype int64"),
}


@pytest.mark.parametrize("kind", WRONG_TEXT)
def test_what_is_no_text_is_refused(kind):
    learner = backbones.WithBackbone(tokeniser(), learner_of("prototypical"))
    examples, message = WRONG_TEXT[kind]
    with pytest.raises(TypeError, match=f"Expected 'support_x' .*{message}"):
        learner.adapt(examples, np.array([0, 1, 2]))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A learner of strings, its export behind a server, and a task."""
    pytest.importorskip("tensorflow_serving")
    from tests.serving.stand_in import StandIn

    folder = tmp_path_factory.mktemp("sentences")
    learner = backbones.WithBackbone(tokeniser(), learner_of("maml"))
    path = maml_tf.serving.export(learner, folder / "exported", warm_up=False)
    stand_in = StandIn(path, "intents")
    yield learner, stand_in, folder
    stand_in.close()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_server_takes_strings(served, protocol):
    learner, stand_in, _ = served
    texts, _ = sentences()
    x, y, query = texts[::4], np.repeat(np.arange(3), 2), ["pay the bill", "blue", "naïve señor"]
    expected = learner.adapt(x, y).predict(np.array(query), verbose=0)
    client = maml_tf.serving.Client(getattr(stand_in, protocol), "intents", timeout=20)
    handle = client.adapt(x, y, inner_steps=2)
    np.testing.assert_allclose(handle.predict(query), expected, atol=1e-5)
    at_once = client.adapt_and_predict(x.tolist(), y, query, inner_steps=2)
    np.testing.assert_allclose(at_once, expected, atol=1e-5)
    client.close()


def test_vocabulary_and_weights_come_back_from_a_file(served):
    learner, _, folder = served
    texts, _ = sentences()
    x, y = texts[::4], np.repeat(np.arange(3), 2)
    expected = learner.adapt(x, y).predict(texts, verbose=0)
    learner.save(folder / "learner.keras")
    again = keras.saving.load_model(folder / "learner.keras")
    np.testing.assert_array_equal(again.adapt(x, y).predict(texts, verbose=0), expected)
