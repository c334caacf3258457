"""Derivatives that TensorFlow lacks or gets wrong, by the type of the operation.

Four kinds, looked for in all of TensorFlow's registered gradients (which operations does each
one emit, and what is known of those?):

- `second_derivatives.GIVEN`: gradients that TensorFlow lacks and that are easy: they are
  registered where a derivative was an error before, for everybody.
- `_LOST`: operations that are declared not differentiable though they have derivatives, silently;
  and the two of projective transformations, whose registered gradient is that of the inverse
  transformation and no derivative of anything. Inside of `guards.refusals` they raise.
- `_PARTLY`: operations whose gradient leaves some of their inputs out, silently. They raise where a
  derivative with respect to one of these is asked for.
- What else has no derivative (CTC, LRN, dilation, fractional pooling, cuDNN's recurrent layers)
  raises in TensorFlow; `guards.refusals` says it in words.

Canary: `tests/exact/test_registry.py` fails for each entry that TensorFlow has put right.
"""

import functools

import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops
from tensorflow.python.ops import gen_nn_ops
from tensorflow.python.ops.linalg import linalg_impl

from maml_tf.exact import dispatch, guards, second_derivatives

# By type, what to do about it.
_LOST = {
    "HSVToRGB": "HSV to RGB",
    "ImageProjectiveTransformV2": "a projective transformation of images",
    "ImageProjectiveTransformV3": "a projective transformation of images",
    "ExtractGlimpse": "glimpses",
    "RandomShuffle": "a random shuffle",
    "RandomCrop": "a random crop",
    "DrawBoundingBoxes": "drawn boxes",
    "LinSpace": "numbers at even distances",
    "Range": "a range of numbers",
    "OneHot": "the values of one-hot vectors",
    "ParameterizedTruncatedNormal": "truncated normal noise",
    "GenerateBoundingBoxProposals": "proposed boxes",
    "TensorListPushBackBatch": "a list of tensors",
    "TensorListConcatLists": "a list of tensors",
    "RaggedRange": "ranges of numbers",
    "CTCGreedyDecoder": "the likelihood of what is decoded",
    "CTCBeamSearchDecoder": "the likelihood of what is decoded",
    "LookupTableFind": "what a table gives for keys that it lacks",
    "LookupTableFindV2": "what a table gives for keys that it lacks",
    "XlaVariadicReduce": "a reduction",
    "ReduceDataset": "the reduction of a data set",
    "SparseAddGrad": "the second derivative of a sum of sparse tensors",
    "SparseConcat": "the concatenation of sparse tensors",
    "FakeQuantWithMinMaxArgsGradient": "the second derivative of simulated quantisation",
    "FakeQuantWithMinMaxVarsGradient": "the second derivative of simulated quantisation",
    "FakeQuantWithMinMaxVarsPerChannelGradient": "the second derivative of simulated quantisation",
}

# Whose registered gradient fails with an error of Python.
_FAILING = ("SparseSparseMaximum", "SparseSparseMinimum", "QuantizeAndDequantizeV4Grad")

# By type, places of the inputs whose derivative TensorFlow leaves out though there is one.
_PARTLY = {
    "Betainc": (0, 1),
    "Zeta": (0,),
    "Polygamma": (0,),
    "MatrixSolveLs": (2,),
    "MatrixDiagV2": (4,),
    "MatrixDiagV3": (4,),
    "MatrixDiagPartV2": (2,),
    "MatrixDiagPartV3": (2,),
    "ScaleAndTranslate": (2, 3),
    "QuantizeAndDequantizeV2": (1, 2),
    "QuantizeAndDequantizeV3": (1, 2),
    # Unless they normalise with statistics of their own.
    "FusedBatchNorm": (3, 4),
    "FusedBatchNormV2": (3, 4),
    "FusedBatchNormV3": (3, 4),
}


def install():
    """Registers what is missing, and puts guards before what is lost."""
    registered = ops.gradient_registry.list()
    for name, gradient in second_derivatives.GIVEN.items():
        if name not in registered:
            ops.RegisterGradient(name)(gradient)
    correct("ResizeBilinearGrad", second_derivatives.bilinear_grad)
    reasons = {
        name: f": TensorFlow gets the derivative of {what} wrong, silently"
        for name, what in _LOST.items()
    }
    reasons |= dict.fromkeys(_FAILING, ", for which TensorFlow has no derivative")
    for name, why in reasons.items():
        definition = op_def_registry.get(name)
        if name in registered and definition is not None:
            entry = ops.gradient_registry._registry[name]
            entry["type"] = _guarded(entry["type"], definition, why)
    for name, places in _PARTLY.items():
        entry = ops.gradient_registry._registry[name]
        entry["type"] = _guarded_partly(entry["type"], op_def_registry.get(name), places)
    for module in (tf.linalg, linalg_impl):
        dispatch.install(module, "eigh_tridiagonal", _eigh_tridiagonal)
    dispatch.install(gen_nn_ops, "fused_batch_norm_v3", _fused_batch_norm)


def correct(name, gradient, here=guards.HERE):
    """Puts `gradient(original, op, *upstream)` in the place of one, inside of `guards.refusals`.

    Args:
        name: type of the operation.
        gradient: gets the registered gradient and what that was called with.
        here: a `threading.local` whose `depth` is above 0 where it is to be used, in the place of
            `guards.refusals` and `guards.calling`.
    """
    entry = ops.gradient_registry._registry[name]
    original = entry["type"]

    @functools.wraps(original)
    def corrected(op, *upstream):
        if here.depth or getattr(here, "calling", 0):
            return gradient(original, op, *upstream)
        if original is None:  # declared not differentiable
            return [None] * len(op_def_registry.get(name).input_arg)
        return original(op, *upstream)

    entry["type"] = corrected


def _guarded(original, definition, why):
    """The registered gradient `original`, None for none, which raises inside of refusals."""

    def gradient(op, *upstream):
        if guards.HERE.depth or guards.HERE.calling:
            raise guards.refusal(definition.name, why)
        if original is None:
            # Not by `op.inputs`, which TensorFlow forgets where nobody should need them.
            return [None] * sum(_length(op, argument) for argument in definition.input_arg)
        return original(op, *upstream)

    return gradient


def _length(op, argument):
    """How many tensors an argument of an operation stands for."""
    if argument.number_attr:
        return op.get_attr(argument.number_attr)
    return len(op.get_attr(argument.type_list_attr)) if argument.type_list_attr else 1


def _guarded_partly(original, definition, places):
    """The registered gradient `original`, which raises where one of `places` is asked for."""
    own_statistics = any(a.name == "is_training" for a in definition.attr)

    def gradient(op, *upstream):
        if (guards.HERE.depth or guards.HERE.calling) and not (
            own_statistics and op.get_attr("is_training")
        ):
            for place in places:
                if _is_asked_for(op, place):
                    raise guards.refusal(
                        definition.name,
                        ": TensorFlow leaves out, silently, its derivative with respect to "
                        f"`{definition.input_arg[place].name}`",
                    )
        return original(op, *upstream)

    return gradient


def _is_asked_for(op, place):
    """Whether a gradient goes on from an input of an operation."""
    if not isinstance(op, tf.Operation):  # what a tape keeps in its place knows it
        return place not in (op.skip_input_indices or ())
    # In a function within the graph: whether floating numbers come in from outside of it.
    waiting, seen = [op.inputs[place]], set()
    while waiting:
        tensor = waiting.pop()
        if tensor.op.type.startswith("Placeholder"):
            return True
        if tensor.op not in seen:
            seen.add(tensor.op)
            waiting.extend(t for t in tensor.op.inputs if not t.dtype.is_integer)
    return False


def _eigh_tridiagonal(original, alpha, beta, *args, **kwargs):
    """The eigenvalues are found by bisection, through which a derivative is any number."""
    found = original(alpha, beta, *args, **kwargs)
    return guards.tied(
        found, [alpha, beta], lambda: guards.refusal("eigh_tridiagonal", _BY_BISECTION)
    )


_BY_BISECTION = ": TensorFlow gets the derivative of a bisection wrong, silently"


def _fused_batch_norm(original, x, *args, **kwargs):
    """The gradient is of the normalised tensor alone, and not of its mean and variance."""
    y, *statistics = made = original(x, *args, **kwargs)
    why = ": TensorFlow leaves out, silently, the derivative of its mean and variance"
    statistics = guards.tied(statistics, [x], lambda: guards.refusal("FusedBatchNormV3", why))
    return type(made)(y, *statistics)
