"""The script that adapts to pictures of one's own."""

import csv
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

import maml_tf
from maml_tf import image_plots
from train import adapt, common, picture_folders

ROOT = pathlib.Path(__file__).parents[2]
STROKES = {
    "cross": [[(20, 50), (80, 50)], [(50, 20), (50, 80)]],
    "tee": [[(20, 25), (80, 25)], [(50, 25), (50, 85)]],
    "zig": [[(20, 20), (80, 20), (20, 80), (80, 80)]],
    "corner": [[(25, 20), (25, 80), (80, 80)]],
    "gate": [[(25, 80), (25, 20), (80, 20), (80, 80)]],
}
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def draw_glyphs(folder, count, random):
    """Pictures of dark strokes on white paper, by class."""
    for name, strokes in STROKES.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = Image.new("L", (105, 105), 255)
            for stroke in strokes:
                points = [tuple(np.add(p, random.normal(0, 3, 2))) for p in stroke]
                ImageDraw.Draw(image).line(points, fill=0, width=4)
            image.save(folder / name / f"{i}.png")
    return folder


def draw_colours(folder, count, random, colours=COLOURS, by_class=True):
    for name, colour in colours.items():
        inside = folder / name if by_class else folder
        inside.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.array(colour) + random.integers(-30, 30, [12, 16, 3])
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(inside / (f"{i}.png" if by_class else f"{name}{i}.png"))
    return folder


@pytest.fixture(scope="module")
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory, random):
    """A folder with a learner of 5 classes of 6x8 pictures in colour, its export, and pictures."""
    folder = tmp_path_factory.mktemp("adapt")
    inputs = keras.Input([6, 8, 3])
    outputs = keras.layers.Dense(5, kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
    learner = maml_tf.MAML(
        keras.Model(inputs, outputs), maml_tf.inner_optimizers.SGD(0.05), inner_steps=5
    )
    learner.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    learner.optimizer.build(learner.trainable_variables)
    learner.save(folder / "learner.keras")
    for steps in (0, 5):  # the older version does not adapt
        maml_tf.serving.export(learner, folder / "export", inner_steps=steps)
    draw_colours(folder / "support", 4, random)
    draw_colours(folder / "query", 3, random)
    draw_colours(folder / "loose", 3, random, by_class=False)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, made):
    """`run(**options)`: the rows of the table and what was printed."""

    def run(*switches, **options):
        given = {"model": made / "learner.keras", "support": made / "support"}
        given |= {"query": made / "query", "output": tmp_path / "out", **options}
        words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items()]
        monkeypatch.setattr("sys.argv", ["adapt", *switches, *sum(words, ())])
        adapt.main()
        with (pathlib.Path(given["output"]) / "predictions.csv").open(newline="") as file:
            return list(csv.DictReader(file)), capsys.readouterr().out

    return run


def images(folder):
    paths = sorted(folder.glob("*/*.png"))
    stack = np.stack(
        [np.asarray(Image.open(p).resize((8, 6), Image.Resampling.LANCZOS)) for p in paths]
    )
    return stack.astype(np.float32) / 255, np.array([p.parent.name for p in paths])


def test_the_table_holds_what_the_adapted_model_says(run, made, tmp_path):
    rows, printed = run(inner_steps=7)
    learner = keras.saving.load_model(made / "learner.keras")
    names = ["blue", "green", "red"]  # the order of their labels
    support_x, support_names = images(made / "support")
    query_x, query_names = images(made / "query")
    support_y = np.array([names.index(n) for n in support_names])
    logits = learner.adapt(support_x, support_y, 7).predict(query_x, verbose=0)[:, :3]
    expected = tf.nn.softmax(logits).numpy()
    assert [row["true"] for row in rows] == list(query_names)
    assert [row["file"] for row in rows] == [f"{n}/{i}.png" for n in names for i in range(3)]
    for row, chances in zip(rows, expected, strict=True):
        second, first = np.argsort(chances)[-2:]
        assert (row["predicted"], row["runner_up"]) == (names[first], names[second])
        assert float(row["probability"]) == pytest.approx(chances[first], abs=1e-3)
        assert float(row["runner_up_probability"]) == pytest.approx(chances[second], abs=1e-3)
    right = sum(row["predicted"] == row["true"] for row in rows)
    assert right == 9
    assert "tells 5 classes apart and there are 3" in printed
    assert "3 classes, 12 support pictures, 9 queries: 9 right, 100.0 %." in printed
    # Nine of nine may be 70 %; these colours are told apart without any learning.
    assert "95 % interval: 70 to 100 %. To compare: chance 33.3 %, nearest" in printed
    assert "neighbour on pixels 100.0 %." in printed
    assert "blue/0.png" in printed
    assert (tmp_path / "out" / "answers.png").read_bytes().startswith(b"\x89PNG")


def test_loose_pictures_have_no_truth(run, made):
    rows, printed = run(query=made / "loose")
    assert {row["true"] for row in rows} == {""}
    assert [row["file"] for row in rows][:2] == ["blue0.png", "blue1.png"]
    assert all(row["file"].startswith(row["predicted"]) for row in rows)
    assert "9 queries.\n" in printed


def test_an_export_answers_as_the_learner_does(run, made):
    expected, _ = run()
    for model in (made / "export", made / "export" / "2"):
        received, _ = run(model=model)
        for row, same in zip(received, expected, strict=True):
            assert row["predicted"] == same["predicted"]
            assert float(row["probability"]) == pytest.approx(float(same["probability"]), abs=1e-3)
    unadapted, _ = run(model=made / "export" / "1")
    assert {row["probability"] for row in unadapted} == {"0.3333"}


def test_many_queries_to_an_export_keep_their_places(run, made, monkeypatch):
    expected, _ = run(model=made / "export")
    monkeypatch.setattr("train.picture_models._TOGETHER", 4)
    assert run(model=made / "export")[0] == expected


def test_glyphs_on_paper_with_the_saved_omniglot_model(run, tmp_path, random):
    folders = {name: draw_glyphs(tmp_path / name, n, random) for name, n in [("s", 1), ("q", 4)]}
    rows, printed = run(
        "--invert",
        model=ROOT / "saved_models" / "omniglot",
        support=folders["s"],
        query=folders["q"],
    )
    assert sum(row["predicted"] == row["true"] for row in rows) >= 18  # of 20; chance is 4
    assert "--invert" not in printed
    _, printed = run(
        model=ROOT / "saved_models" / "omniglot" / "1", support=folders["s"], query=folders["q"]
    )
    assert "give --invert" in printed


def test_ink_is_inverted(run, tmp_path, made):
    support, _ = images(made / "support")
    seen = []

    def answer(support_x, support_y, query_x):
        seen.append(support_x)
        return np.zeros([len(query_x), 5])

    model = adapt.picture_models.Model((6, 8, 3), 5, tf.TensorSpec([None], tf.int32), answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt.picture_models, "open_model", lambda *_: model)
        run()
        run("--invert")
    np.testing.assert_allclose(seen[0], support, atol=1e-6)
    np.testing.assert_allclose(seen[1], 1 - support, atol=1e-6)


def test_models_with_probabilities_and_one_hot_labels(run, tmp_path):
    model = keras.Sequential(
        [keras.Input([6, 8, 3]), keras.layers.Flatten(), keras.layers.Dense(5, "softmax")]
    )
    learner = maml_tf.MAML(model, 0.3, inner_steps=20)
    learner.compile(loss="categorical_crossentropy")
    learner.optimizer.build(learner.trainable_variables)
    learner.save(tmp_path / "m.keras")
    rows, _ = run(model=tmp_path / "m.keras")
    assert all(row["predicted"] == row["true"] for row in rows)
    # Twice through a softmax no probability would come near to 1.
    assert max(float(row["probability"]) for row in rows) > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nowhere"}, "nowhere, which does not exist"),
        ({"model": "{made}/support"}, "saved_model.pb, or with versions"),
        ({"model": "{made}/plain.keras"}, "a Sequential, which does not adapt"),
        ({"support": "{made}/six"}, r"2 to 5 class folders .* Received: 6"),
        ({"support": "{made}/one"}, "Received: 1, .* Add another"),
        ({"query": "{made}/six"}, r"Received also: \['a', 'b'"),
        ({"query": "{made}/nowhere"}, "does not exist"),
        ({"query": "{made}/broken"}, r"broken.png"),
    ],
)
def test_what_does_not_fit_is_explained(run, made, random, tmp_path, options, message):
    if not (made / "six").exists():
        draw_colours(made / "six", 1, random, dict.fromkeys("abcdef", (9, 99, 199)))
        draw_colours(made / "one", 1, random, {"red": COLOURS["red"]})
        (draw_colours(made / "broken", 1, random) / "red" / "broken.png").write_bytes(b"")
        keras.Sequential([keras.Input([2]), keras.layers.Dense(2)]).save(made / "plain.keras")
    options = {k: v.format(made=made) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(SystemExit, match=message):
        run(**options)
    assert not (tmp_path / "out").exists()


def test_a_broken_query_is_left_out_if_asked(run, made, random, tmp_path):
    (draw_colours(tmp_path / "q", 2, random) / "red" / "broken.png").write_bytes(b"")
    rows, _ = run(query=tmp_path / "q", on_error="skip")
    assert [row["file"] for row in rows if row["true"] == "red"] == ["red/0.png", "red/1.png"]


def test_of_many_queries_the_sheet_shows_the_doubtful_ones(monkeypatch):
    drawn = []
    monkeypatch.setattr(image_plots, "contact_sheet", lambda *a, **k: drawn.append((a, k)))
    settings = adapt.Settings("m", "s", "q", sheet_queries=3)
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    paths = [pathlib.Path(f"{i}.png") for i in range(5)]
    answers = adapt.Answers(np.zeros([5, 2], int), np.array([[0.9, 0.8, 0.5, 0.7, 0.6], [0] * 5]).T)
    queries = picture_folders.Pictures(pixels, np.array([1, 0, 0, 0, 1]), paths)
    adapt.draw(settings, "ab", queries, queries, answers, "5 queries")
    (_, shown, *_), rest = drawn[0]
    assert list(shown.flat) == [4, 0, 2]  # the wrong ones, the less certain first; then the right
    assert "3 wrong or least certain" in rest["title"]


def texts(figure):
    return {text.get_text(): text.get_color() for text in figure.axes[0].texts}


def test_contact_sheet_says_right_wrong_and_unknown():
    pixels = np.zeros([3, 4, 6, 3], np.uint8)
    support = (pixels, [0, 1, 1])
    answers = (["cat", "$do$g"], [0, 1, 1], [0.9, 0.8, 0.654])
    known = texts(image_plots.contact_sheet(support, pixels, *answers, [0, 1, 0]))
    assert known["✓ 90 %"] == known["✓ 80 %"] != known["✗ 65 %, is cat"]
    unknown = texts(image_plots.contact_sheet(support, pixels, *answers, captions=["a", "b", "c"]))
    assert {"90 %", "80 %", "65 %", "a", "b", "c", "$do$g"} <= set(unknown)
    assert not any("✓" in text or "✗" in text for text in unknown)


def test_contact_sheet_of_many_support_pictures_and_grey_ones(tmp_path):
    pixels = np.linspace(0, 1, 12 * 9, dtype=np.float32).reshape(12, 3, 3, 1)
    figure = image_plots.contact_sheet(
        (pixels, [0] * 12), pixels[:1], ["a" * 200], [0], [1.0], columns=5
    )
    assert any(text.endswith(", 5 of 12") for text in texts(figure))
    assert len(figure.axes[0].images) == 6
    figure.savefig(tmp_path / "sheet.png")


def test_contact_sheet_refuses_answers_that_do_not_fit():
    pixels = np.zeros([2, 4, 6, 3], np.uint8)
    with pytest.raises(ValueError, match="2 queries, 1 predicted"):
        image_plots.contact_sheet((pixels, [0, 1]), pixels, "ab", [0], [0.5, 0.5])
    with pytest.raises(ValueError, match="0 queries"):
        image_plots.contact_sheet((pixels, [0, 1]), pixels[:0], "ab", [], [])


def test_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["adapt", "--help"])
    with pytest.raises(SystemExit):
        adapt.main()
    text = " ".join(capsys.readouterr().out.split())
    for word in ("--support", "--query", "--inner-steps", "dark ink on paper", "class folders"):
        assert word in text


def test_a_folder_that_cannot_be_written_is_told_in_a_line(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        common.run(lambda: run(output=tmp_path / "file" / "out"), resumes=False)
    assert str(ended.value) == f"{tmp_path / 'file' / 'out'}: Not a directory."


def test_names_that_no_terminal_shows(run, made, tmp_path):
    """A new line, an escape, and bytes that are no UTF-8: printed, in the table and the sheet."""
    folder = tmp_path / "odd"
    folder.mkdir()
    image = next((made / "loose").iterdir()).read_bytes()
    for name in (b"a\nb.png", b"\x1b[2Jc.png", b"\xff.png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(image)
    rows, printed = run(query=folder)
    assert [row["file"] for row in rows] == ["\x1b[2Jc.png", "a\nb.png", "\\udcff.png"]
    for shown in ("\\x1b[2Jc.png", "a\\nb.png", "\\udcff.png"):
        assert shown in printed
    assert "\x1b" not in printed


def test_links_out_of_a_folder_are_refused_unless_asked_for(run, made, tmp_path):
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "1.png").symlink_to(next((made / "loose").iterdir()))
    with pytest.raises(SystemExit, match="a link to .*--follow-links"):
        run(query=tmp_path / "q")
    assert len(run("--follow-links", query=tmp_path / "q")[0]) == 1
