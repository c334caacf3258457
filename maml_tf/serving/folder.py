"""What an export writes: SavedModel, warm-up requests and model card, whole or not at all."""

import tensorflow as tf

from maml_tf import files
from maml_tf.serving import card as card_file
from maml_tf.serving import warmup


def write(path, module, functions, requests, facts, *, signature, output, note):
    """Writes one version of a model.

    Args:
        path: `pathlib.Path` of the version's folder, which is not there yet.
        module: `tf.Module` that holds what the functions use.
        functions: `tf.function`s and concrete functions by signature name.
        requests: dict of arrays by signature to warm a server up with, or None.
        facts: dict, what the card says.
        signature: str, the signature that the card's examples ask.
        output: str, what they take of the answer.
        note: str, what the card says beside.
    """
    with files.whole_folder(path) as folder:
        tf.saved_model.save(module, str(folder), signatures=functions)
        if requests:
            warmup.write(folder, requests)
        card_file.write(folder, path.parent.resolve().name, facts, signature, output, note)
