"""Python code in a graph, of which TensorFlow knows no derivative, or one that cannot be relied on.

Symptoms:

- `tf.numpy_function` is declared not differentiable: what comes before it gets no gradient,
  silently, though it is meant to.
- `tf.py_function` has a derivative that takes no part in a second one, silently. And where several
  tasks run at a time, each takes up the tape that another one left.

Both are refused by name where a derivative goes through them.

Canary: `tests/exact/test_python_functions.py`. Once it fails, the entry may go.
"""

from tensorflow.python.ops import script_ops

from maml_tf.exact import dispatch, guards


def install():
    """Replaces the functions in which both end."""
    dispatch.install(script_ops, "py_func_common", _numpy_function)
    dispatch.install(script_ops, "_internal_py_func", _py_function)


def _numpy_function(original, func, inp, *args, **kwargs):
    outputs = original(func, inp, *args, **kwargs)
    return guards.tied(outputs, inp, lambda: _refusal("numpy_function", " at all"))


def _py_function(original, func, inp, Tout, **kwargs):  # noqa: N803
    outputs = original(func=func, inp=inp, Tout=Tout, **kwargs)
    if not kwargs.get("use_eager_py_func"):
        return outputs
    which = " that tasks beside one another can rely on"
    return guards.tied(outputs, inp, lambda: _refusal("py_function", which))


def _refusal(name, which):
    return guards.refusal(name, f", for which TensorFlow has no derivative{which}")
