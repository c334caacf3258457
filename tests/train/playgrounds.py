"""Playgrounds for tests: a server in this process."""

import contextlib
import re
import threading

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
