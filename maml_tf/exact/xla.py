"""What XLA computes wrongly, found in the traced graph and refused.

Symptom: the second-order gradient through max-pooling that XLA compiles for the CPU is off by up
to 2.7e-2; uncompiled it is right.

Canary: `tests/exact/test_xla.py`. Once it fails, XLA is mended and this file may go.
"""

import tensorflow as tf

# Operations whose second derivative XLA computes wrongly on the CPU.
_WRONG_IN_XLA = {"MaxPoolGradGrad", "MaxPoolGradGradV2", "MaxPool3DGradGrad"}


def refuse_wrong_xla(jit_compile, first_order):
    """Raises where the graph being traced holds a second derivative that XLA gets wrong.

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
    wrong = sorted({op.type for op in graph.get_operations()} & _WRONG_IN_XLA)
    if wrong:
        raise NotImplementedError(
            "Expected a model whose second derivative XLA computes correctly on the CPU, received "
            f"one with max-pooling (operations {wrong}), for which compiled second-order "
            "gradients are off by up to 2e-2. Use `compile(jit_compile=False)`, or "
            "`first_order=True`, or strided convolutions, or average pooling in place of the "
            "max-pooling."
        )
