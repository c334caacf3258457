"""What XLA computes wrongly and `maml_tf.exact.pooling` did not catch is found and refused.

Symptom and canary are those of `pooling.py`: an image whose size is not known while tracing,
channels first, `tf.raw_ops.MaxPool` under a name of one's own.
"""

import tensorflow as tf

# Operations whose second derivative XLA computes wrongly on the CPU.
_WRONG_IN_XLA = {"MaxPoolGradGrad", "MaxPoolGradGradV2", "MaxPool3DGradGrad"}


def refuse_wrong_xla(jit_compile, first_order):
    """Raises where the graph being traced holds a second derivative that XLA gets wrong.

    Functions that the graph calls (`tf.function`, `tf.cond`, `tf.while_loop`, `tf.map_fn`) are
    looked through as well.

    Raises:
        NotImplementedError: `jit_compile` and second order on a machine whose device is a CPU,
            through max-pooling.
    """
    if (
        not jit_compile
        or first_order
        or tf.executing_eagerly()
        or tf.config.list_physical_devices("GPU")
    ):
        return
    graph = tf.compat.v1.get_default_graph()
    types = {op.type for op in graph.get_operations()}
    for function in graph.as_graph_def().library.function:
        types.update(node.op for node in function.node_def)
    wrong = sorted(types & _WRONG_IN_XLA)
    if wrong:
        raise NotImplementedError(
            "Expected a model whose second derivative XLA computes correctly on the CPU, received "
            f"one with max-pooling (operations {wrong}) over images of unknown size or with "
            "channels first, for which compiled second-order gradients are off by up to 2.7e-2. "
            "Use `compile(jit_compile=False)`, or `first_order=True`, or inputs of a known size "
            "with channels last, or strided convolutions or average pooling in its place."
        )
