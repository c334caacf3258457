"""Task families: every one yields the same task batch, `(inputs, query_y)`.

`inputs` is `{"support_x": [T, S, ...], "support_y": [T, S, ...], "query_x": [T, Q, ...]}` and
`query_y` is `[T, Q, ...]`, for T tasks of S support and Q query examples. What the classes of a
batch are called, `sets.class_names("test", batch)` says, where `sets` is what a family of images
gave back (`splits.TaskSets`).
"""

from maml_tf.tasks import sampling
from maml_tf.tasks.cifar import cifar_fs, fc100
from maml_tf.tasks.classes import classes
from maml_tf.tasks.data.glyphs import load_glyphs
from maml_tf.tasks.data.mini_imagenet import load_mini_imagenet
from maml_tf.tasks.data.omniglot import load_omniglot
from maml_tf.tasks.episodes import Episodes
from maml_tf.tasks.from_tfds import from_tfds, load_tfds_images
from maml_tf.tasks.glyphs import glyphs
from maml_tf.tasks.group_tasks import GroupTasks
from maml_tf.tasks.groups import groups
from maml_tf.tasks.image_folder import image_folder, load_image_folder
from maml_tf.tasks.mini_imagenet import mini_imagenet
from maml_tf.tasks.omniglot import omniglot
from maml_tf.tasks.sinusoid import sinusoid
from maml_tf.tasks.window_tasks import WindowTasks
from maml_tf.tasks.windows import windows

__all__ = [
    "Episodes",
    "GroupTasks",
    "WindowTasks",
    "cifar_fs",
    "classes",
    "fc100",
    "from_tfds",
    "glyphs",
    "groups",
    "image_folder",
    "load_glyphs",
    "load_image_folder",
    "load_mini_imagenet",
    "load_omniglot",
    "load_tfds_images",
    "mini_imagenet",
    "omniglot",
    "sampling",
    "sinusoid",
    "windows",
]
