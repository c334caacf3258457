"""Features: those of the backbone, computed once, for the same tasks."""

import multiprocessing

import keras
import numpy as np
import pytest
import tensorflow as tf

import maml_tf
from maml_tf import backbones
from maml_tf.backbones import stored
from maml_tf.tasks.data import packed
from tests.backbones.networks import backbone, pictures
from tests.problems import layers


def folders(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.startswith("."))


def test_tasks_are_the_same_and_examples_are_what_the_backbone_makes_of_them(tmp_path):
    given, network = pictures(), backbone()
    made = backbones.features(given, network, cache=tmp_path, batch_size=7)
    assert made[1] is None
    for split in (0, 2):
        (x, y), (z, same) = (next(iter(tasks[split])) for tasks in (given, made))
        np.testing.assert_array_equal(y, same)
        np.testing.assert_array_equal(x["support_y"], z["support_y"])
        for key in ("support_x", "query_x"):
            for task in range(2):
                expected = network(x[key][task], training=False)
                np.testing.assert_allclose(z[key][task], expected, atol=1e-6)
    names = [tasks.class_names("test").tolist() for tasks in (given, made)]
    assert names[0] == names[1]


def computed(monkeypatch):
    """Rows that went to disk, one entry a call."""
    calls, write = [], stored._write

    def counting(path, shape, *rest):
        calls.append(shape[0])
        write(path, shape, *rest)

    monkeypatch.setattr(stored, "_write", counting)
    return calls


def test_a_second_start_reads_them_and_a_changed_one_does_not(tmp_path, monkeypatch):
    calls = computed(monkeypatch)
    given = pictures()
    backbones.features(given, backbone(), cache=tmp_path)
    # The same network made again has other names.
    backbones.features(given, backbone(), cache=tmp_path)
    assert calls == [30]
    backbones.features(given, backbone(seed=1), cache=tmp_path)  # other weights
    backbones.features(given, backbone(scale=1.0), cache=tmp_path)  # other scaling, no weight
    backbones.features(pictures(of_each=6), backbone(), cache=tmp_path)  # other pictures
    assert calls == [30, 30, 30, 36]
    assert len(folders(tmp_path)) == 4


def test_a_vocabulary_belongs_to_a_tokeniser(tmp_path):
    def named(text):
        tokens = layers.TextVectorization(output_sequence_length=3)
        tokens.adapt([text])
        model = keras.Sequential([keras.Input((), dtype="string"), tokens])
        return stored.name_of(model, np.array(["a b"]))

    assert named("a b c") == named("a b c") != named("a b d")


def test_text_counts_byte_by_byte_in_any_alphabet():
    tokens = layers.TextVectorization(output_sequence_length=3, vocabulary=["a"])
    model = keras.Sequential([keras.Input((), dtype="string"), tokens])
    names = [
        stored.name_of(model, tf.constant(texts))
        for texts in (["déjà", "vu"], ["déjàv", "u"], ["deja", "vu"])
    ]
    assert len(set(names)) == 3
    assert names[0] == stored.name_of(model, np.array(["déjà", "vu"], object))


def test_what_is_damaged_is_computed_again(tmp_path, monkeypatch):
    calls = computed(monkeypatch)
    given, network = pictures(), backbone()
    backbones.features(given, network, cache=tmp_path)
    (name,) = folders(tmp_path)
    file = tmp_path / name / "features.npy"
    file.write_bytes(file.read_bytes()[:-5])
    made = backbones.features(given, network, cache=tmp_path)
    assert calls == [30, 30]
    assert packed.read_array(file).shape == (30, 4)
    assert np.isfinite(next(iter(made[0]))[0]["support_x"]).all()


def _write_rows(folder, value, barrier, failed):
    def rows():
        barrier.wait()  # both are writing at the same moment
        yield np.full([10, 2], value, np.float32)

    try:
        array = stored.open_or_make("some", folder, (10, 2), "float32", rows)
        assert set(np.unique(array)) <= {1.0, 2.0}
        assert len(np.unique(array)) == 1
    except BaseException as error:
        failed.put(repr(error))


def test_two_processes_do_not_harm_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, failed = context.Barrier(2), context.Queue()
    writers = [
        context.Process(target=_write_rows, args=(tmp_path, value, barrier, failed))
        for value in (1.0, 2.0)
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    assert failed.empty(), failed.get()
    assert folders(tmp_path) == ["some"]
    assert list(tmp_path.glob(".*")) == []


def test_nothing_is_left_where_the_features_are_not_finite(tmp_path):
    network = backbone()
    network.layers[2].beta.assign(np.full([4], np.nan))
    with pytest.raises(FloatingPointError, match=r"Expected a backbone whose features are finite"):
        backbones.features(pictures(), network, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def several_outputs():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, [x, x])


def masked():
    tokens = keras.Input((4,), dtype="int32")
    return keras.Model(tokens, layers.Embedding(5, 2, mask_zero=True)(tokens))


def free_size():
    return keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)])


@pytest.mark.parametrize(
    ("kind", "build", "message"),
    [
        (TypeError, lambda: "mobilenet_v2", r"Expected `backbone` to be a `keras.Model`.*'mobile"),
        (ValueError, several_outputs, r"one output\. Received: .* 1 inputs and 2 outputs"),
        (ValueError, free_size, r"features of a fixed size.*\(None, None, None, 2\)"),
        (ValueError, masked, r"features without a mask.*whose output has one"),
        (ValueError, lambda: keras.Sequential([layers.Dense(2)]), r"with 0 inputs"),
        (
            ValueError,
            lambda: backbone(size=8),
            r"Expected examples of shape \(8, 8, 3\).*Received: examples of shape \(6, 6, 3\) and "
            r"dtype float32\. Load the pictures with image_size=\(8, 8\)",
        ),
        (
            ValueError,
            lambda: keras.Sequential([keras.Input((1,), dtype="string"), layers.StringLookup()]),
            r"Expected examples of shape \(1,\) and dtype string",
        ),
    ],
    ids=["no model", "outputs", "free size", "mask", "not built", "size", "text"],
)
def test_wrong_backbones_are_refused_before_anything_is_computed(kind, build, message, tmp_path):
    with pytest.raises(kind, match=message):
        backbones.features(pictures(), build(), cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_tasks_are_refused():
    changed = pictures().each(lambda tasks: tasks)
    for tasks in (changed, tuple(pictures()), maml_tf.tasks.sinusoid()):
        with pytest.raises(TypeError, match=r"Expected `tasks` to be what a family of tasks"):
            backbones.features(tasks, backbone())
