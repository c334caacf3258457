"""How an operation is replaced for the calls of this library, and for nobody else.

A replacement stands in a module of TensorFlow for good, from the first call on, and asks whether
*this thread* is inside of `replaced_here`: if not, it hands everything on to the original, for the
price of one more Python call while tracing. So another thread that traces something else at the
same time never sees it. What is replaced are the private functions at which the public names end,
so that every alias of them is caught, also one that was imported before.
"""

import contextlib
import functools
import threading

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_ops, control_flow_util


class _Apart(control_flow_ops.XLAControlFlowContext):
    """A mark on the graph in which operations are made; it changes none of them.

    A layer may have a `tf.function` of its own, which keeps what it traced: without the
    replacements, if the layer has been called before, and then with them for everybody. A mark of
    this kind is part of the key under which a trace is kept, so that the two stay apart. (Outside
    of graphs there is none: under `run_eagerly`, what a layer's own `tf.function` traced before is
    used as it is.)
    """

    def __init__(self, compiled):
        super().__init__()
        self._outer_context = None
        self._compiled = compiled

    def IsXLAContext(self):  # noqa: N802
        return self._compiled

    def RequiresUniqueFunctionRetracing(self):  # noqa: N802
        return True


class _Here(threading.local):
    """What holds in one thread."""

    def __init__(self):
        self.depth = 0
        self.kept = frozenset()  # names of what is not replaced
        self.vectorized = False  # whether what is traced is vectorised over tasks afterwards
        self.apart = {}  # marks by whether XLA compiles, what is not replaced, and the above


_HERE = _Here()


def install(module, name, replacement, here=_HERE):
    """Puts `replacement(original, *args, **kwargs)` in the place of `module.name`.

    Args:
        module: what has the function as an attribute.
        name: `str`.
        replacement: gets the original and what that was called with.
        here: a `threading.local` whose `depth` is above 0 where it is to be used, in the place of
            `replaced_here`.
    """
    original = getattr(module, name)

    @functools.wraps(original)
    def dispatched(*args, **kwargs):
        if here.depth and name not in _HERE.kept:
            return replacement(original, *args, **kwargs)
        return original(*args, **kwargs)

    setattr(module, name, dispatched)


@contextlib.contextmanager
def replaced_here():
    """While open, this thread calls the replacements."""
    _HERE.depth += 1
    try:
        with _traced_apart():
            yield
    finally:
        _HERE.depth -= 1


@contextlib.contextmanager
def kept_here(*names):
    """While open, this thread calls the originals of these names within `replaced_here`, too.

    Args:
        *names: `str`, as given to `install`.
    """
    around, _HERE.kept = _HERE.kept, _HERE.kept | set(names)
    try:
        yield
    finally:
        _HERE.kept = around


@contextlib.contextmanager
def vectorized_here():
    """While open, what this thread traces is going to be vectorised over tasks."""
    around, _HERE.vectorized = _HERE.vectorized, True
    try:
        yield
    finally:
        _HERE.vectorized = around


def inside_vectorized():
    """Whether what is traced now is going to be vectorised over tasks."""
    return _HERE.vectorized


def inside_gpu_program():
    """Whether what is traced now is vectorised over tasks and compiled for a GPU."""
    return _HERE.vectorized and inside_xla() and bool(tf.config.list_physical_devices("GPU"))


def closed_forms_pay():
    """Whether derivatives in closed form are faster than those of plain operations.

    They are on a CPU, where XLA does not compile (it fuses by itself) and tasks are not vectorised
    (`tf.vectorized_map` knows plain operations best); and in what is both, on a GPU. Nothing else
    was measured.
    """
    if tf.config.list_physical_devices("GPU"):
        return inside_gpu_program()
    return not (_HERE.vectorized or inside_xla())


@contextlib.contextmanager
def _traced_apart():
    if tf.executing_eagerly():
        yield
        return
    compiled = inside_xla()
    key = (compiled, _HERE.kept, _HERE.vectorized)
    mark = _HERE.apart.setdefault(key, _Apart(compiled))
    mark.Enter()
    try:
        yield
    finally:
        mark.Exit()


def inside_xla():
    """Whether what is traced now is going to be compiled by XLA."""
    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())
