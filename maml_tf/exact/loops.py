"""Variables of a loop as tensors that are there only while the loop goes on.

Symptom: "AlreadyExistsError: Resource .../tmp_var", the second time that a loop runs. Of a sum of
three and more large tensors TensorFlow's memory optimizer makes assignments to a temporary
variable, which is created once the first of them is there. A variable of a loop is there once more
than the loop has steps, for the check that ends it; what is created then nobody destroys. An
operation between a variable and the sum helps; `tf.identity` does not, as it is optimized away.

Canary: `tests/exact/test_loops.py`, which fails once TensorFlow runs such a loop twice.
"""

import tensorflow as tf


def carried(*variables):
    """Variables of a `tf.while_loop` for its body to compute with: the same, and safe to sum.

    Args:
        *variables: structures of tensors.

    Returns:
        List of the structures.
    """
    return tf.nest.map_structure(lambda t: tf.ensure_shape(t, t.shape), list(variables))
