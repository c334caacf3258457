"""Playgrounds for tests: a server in this process."""

import contextlib
import re
import threading

import numpy as np
import PIL.Image
import tensorflow as tf

from train import playground


@contextlib.contextmanager
def served(**settings):
    """A playground's server on a free port, whose models are loaded when they are asked."""
    server = playground.make_server(playground.Settings(port=0, **settings))
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def addresses(page):
    """What looks like an address of the network in a page."""
    return re.findall(r"""(?:https?:)?//[a-z][^\s"'`<>)]*\.[^\s"'`<>)]*""", page)


def write_photograph_model(folder, side=16, ways=5):
    """A SavedModel with the signatures of an exported learner of colour pictures.

    It adapts to the mean picture of each class, and is the surer the more steps it takes: enough to
    see what the page sends and shows, and written in a second.
    """
    picture = tf.TensorSpec([None, side, side, 3], tf.float32)
    labels = tf.TensorSpec([None], tf.int32)
    weights = tf.TensorSpec([None], tf.float32, name="weights")
    steps = tf.TensorSpec([], tf.int32, name="inner_steps")

    def named(spec, name):
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)

    @tf.function
    def adapt(support_x, support_y, inner_steps):
        sums = tf.math.unsorted_segment_mean(support_x, support_y, ways)
        sure = tf.cast(inner_steps, tf.float32)[None]
        return {"weights": tf.concat([sure, tf.reshape(sums, [-1])], 0)}

    @tf.function
    def predict_with(weights, query_x):
        means = tf.reshape(weights[1:], [ways, side, side, 3])
        away = tf.reduce_mean((query_x[:, None] - means) ** 2, [2, 3, 4])
        return {"predictions": tf.ensure_shape(-10.0 * weights[0] * away, [None, ways])}

    signatures = {
        "adapt": adapt.get_concrete_function(
            named(picture, "support_x"), named(labels, "support_y"), steps
        ),
        "predict_with": predict_with.get_concrete_function(weights, named(picture, "query_x")),
    }
    tf.saved_model.save(tf.Module(), str(folder), signatures)


KINDS = ("bricks", "leaves", "polka dots", "sunset", "waves")


def pictures(folder, each, seed=0, size=(160, 120)):
    """Writes made-up pictures of five kinds, a folder each; returns the folder."""
    random = np.random.default_rng(seed)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for i in range(each):
            PIL.Image.fromarray(_picture(kind, random, *size)).save(folder / kind / f"{i}.png")
    return folder


def _picture(kind, random, width, height):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x + random.uniform(0, 60), y + random.uniform(0, 60)
    noise = random.normal(0, 9, (height, width, 1))
    if kind == "bricks":
        tall = random.uniform(16, 24)
        row = np.floor(y / tall)
        along = x / (2.2 * tall) + 0.5 * (row % 2)
        mortar = np.minimum((y / tall) % 1, 2.2 * (along % 1)) < 0.14
        shade = 22 * np.sin(37 * row + 91 * np.floor(along))
        image = np.where(mortar[..., None], [205, 196, 186], [172, 78, 58] + shade[..., None])
    elif kind == "waves":
        bent = y + 7 * np.sin(x / random.uniform(14, 22))
        crest = np.sin(bent / random.uniform(4, 6))[..., None]
        image = np.array([38, 98, 160]) + np.maximum(crest, -0.4) * [60, 62, 55]
    elif kind == "leaves":
        tilted = np.sin(x / 9 + np.sin(y / 13) * 2) * np.sin(y / 11 + np.cos(x / 15) * 2)
        image = np.array([52, 112, 44]) + tilted[..., None] * [38, 70, 26]
    elif kind == "sunset":
        down = np.linspace(0, 1, height)[:, None, None] * np.ones((1, width, 1))
        image = (1 - down) * [92, 52, 120] + down * [250, 148, 66]
        across = np.arange(width) - random.uniform(0.3, 0.7) * width
        sun = np.hypot(np.arange(height)[:, None] - 0.66 * height, across) < random.uniform(16, 26)
        image = np.where(sun[..., None], [255, 226, 130], image)
    else:
        step = random.uniform(22, 32)
        dot = np.hypot(x % step - step / 2, y % step - step / 2) < 0.3 * step
        image = np.where(
            dot[..., None], random.uniform(150, 225, 3) * [1, 0.2, 0.6], [246, 240, 228]
        )
    return np.clip(image + noise, 0, 255).astype(np.uint8)
