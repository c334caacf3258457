"""Task families: every one yields the same task batch, `(inputs, query_y)`.

`inputs` is `{"support_x": [T, S, ...], "support_y": [T, S, ...], "query_x": [T, Q, ...]}` and
`query_y` is `[T, Q, ...]`, for T tasks of S support and Q query examples.
"""

from maml_tf.tasks import sampling
from maml_tf.tasks.cifar import cifar_fs, fc100
from maml_tf.tasks.from_tfds import from_tfds, load_tfds_images
from maml_tf.tasks.omniglot import omniglot
from maml_tf.tasks.omniglot_data import load_omniglot
from maml_tf.tasks.sinusoid import sinusoid

__all__ = [
    "cifar_fs",
    "fc100",
    "from_tfds",
    "load_omniglot",
    "load_tfds_images",
    "omniglot",
    "sampling",
    "sinusoid",
]
