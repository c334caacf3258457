"""Derivatives that TensorFlow lacks or gets wrong, by the type of the operation.

Four kinds, looked for in all of TensorFlow's registered gradients (which operations does each
one emit, and what is known of those?):

- `_GIVEN`: gradients of gradients that TensorFlow lacks and that are easy: they are registered
  where a derivative was an error before, for everybody. Softsign, and resizings, which are linear.
- `_LOST`: operations that are declared not differentiable though they have derivatives, silently;
  and the two of projective transformations, whose registered gradient is that of the inverse
  transformation and no derivative of anything. Inside of `refusals` they raise.
- `_PARTLY`: operations whose gradient leaves some of their inputs out, silently. They raise where a
  derivative with respect to one of these is asked for.
- What else has no derivative (CTC, LRN, dilation, fractional pooling, cuDNN's recurrent layers)
  raises in TensorFlow; `refusals` says it in words.

Canary: `tests/exact/test_registry.py` fails for each entry that TensorFlow has put right.
"""

import contextlib
import functools
import re
import threading

import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops
from tensorflow.python.ops import gen_image_ops, gen_nn_ops
from tensorflow.python.ops.linalg import linalg_impl

from maml_tf.exact import dispatch


class _Here(threading.local):
    """What holds in one thread."""

    depth = 0  # above 0 while a gradient is taken
    calling = 0  # above 0 while a model is called


HERE = _Here()

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
    for name, gradient in _GIVEN.items():
        if name not in registered:
            ops.RegisterGradient(name)(gradient)
    correct("ResizeBilinearGrad", _bilinear_grad)
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


def correct(name, gradient, here=HERE):
    """Puts `gradient(original, op, *upstream)` in the place of one, inside of `refusals`.

    Args:
        name: type of the operation.
        gradient: gets the registered gradient and what that was called with.
        here: a `threading.local` whose `depth` is above 0 where it is to be used, in the place of
            `refusals` and `calling`.
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
    """The registered gradient `original`, None for none, that raises inside of `refusals`."""

    def gradient(op, *upstream):
        if HERE.depth or HERE.calling:
            raise refusal(definition.name, why)
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
        if (HERE.depth or HERE.calling) and not (own_statistics and op.get_attr("is_training")):
            for place in places:
                if _is_asked_for(op, place):
                    raise refusal(
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


@contextlib.contextmanager
def refusals():
    """While open, this thread's gradients raise where TensorFlow has none, or a wrong one.

    Raises:
        NotImplementedError: naming the operation.
    """
    HERE.depth += 1
    try:
        with _in_words():
            yield
    finally:
        HERE.depth -= 1


@contextlib.contextmanager
def calling():
    """While open, the same holds for functions that this thread calls within a graph.

    TensorFlow makes the gradient of such a function when it is called, and keeps it.

    Raises:
        NotImplementedError: naming the operation.
    """
    HERE.calling += 1
    try:
        with _in_words():
            yield
    finally:
        HERE.calling -= 1


@contextlib.contextmanager
def _in_words():
    try:
        yield
    except LookupError as error:
        if "Gradient explicitly disabled" in str(error):
            reason = " ".join(str(error).partition("Reason: ")[2].split()).lstrip("b").strip("'\"")
            raise refusal("PreventGradient", f": {reason}") from error
        missing = re.search(r"no entry for: (\w+)|op type: (\w+)", str(error))
        if missing is None:
            raise
        name = missing.group(1) or missing.group(2)
        raise refusal(name, ", for which TensorFlow has no derivative") from error


def _eigh_tridiagonal(original, alpha, beta, *args, **kwargs):
    """The eigenvalues are found by bisection, through which a derivative is any number."""
    found = original(alpha, beta, *args, **kwargs)
    return tied(found, [alpha, beta], lambda: refusal("eigh_tridiagonal", _BY_BISECTION))


_BY_BISECTION = ": TensorFlow gets the derivative of a bisection wrong, silently"


def _fused_batch_norm(original, x, *args, **kwargs):
    """The gradient is of the normalised tensor alone, and not of its mean and variance."""
    y, *statistics = made = original(x, *args, **kwargs)
    why = ": TensorFlow leaves out, silently, the derivative of its mean and variance"
    statistics = tied(statistics, [x], lambda: refusal("FusedBatchNormV3", why))
    return type(made)(y, *statistics)


def tied(outputs, inputs, error):
    """The outputs of a function; a derivative that comes by them on its way to an input raises.

    Args:
        outputs: tensor, or structure of them.
        inputs: structure of what they were made of.
        error: function without arguments, to what is raised.

    Returns:
        As `outputs`.
    """
    flat = tf.nest.flatten(outputs, expand_composites=True)
    places = [i for i, t in enumerate(flat) if _is_differentiable(t)]
    given = [t for t in tf.nest.flatten(inputs, expand_composites=True) if _is_differentiable(t)]
    if not places or not given:
        return outputs

    @tf.custom_gradient
    def identity(*tensors):
        def gradient(*upstream):
            raise error()

        return [tf.identity(t) for t in tensors[: len(places)]], gradient

    for i, t in zip(places, identity(*[flat[i] for i in places], *given), strict=True):
        flat[i] = t
    return tf.nest.pack_sequence_as(outputs, flat, expand_composites=True)


def _is_differentiable(tensor):
    return tf.is_tensor(tensor) and (tensor.dtype.is_floating or tensor.dtype.is_complex)


def refusal(name, why):
    """The error that names an operation and says what to do.

    Args:
        name: of the operation.
        why: what is wrong with it, the end of a sentence.
    """
    second = "Grad" in name or "Back" in name or "second" in why
    order = (
        "Use `first_order=True`, or another layer or loss"
        if second
        else "Use another layer or loss, keep it before the first weights, or stop the gradient "
        "of its inputs by `tf.stop_gradient` where they are meant as constants"
    )
    return NotImplementedError(
        "Expected a model and a loss whose operations have the derivatives that meta-learning "
        f"needs. Received one that is differentiated through `{name}`{why}. {order}."
    )


def _softsign_grad(op, u):
    g, x = op.inputs
    scale = 1 / (1 + tf.abs(x)) ** 2
    return [u * scale, -2 * u * g * tf.sign(x) * scale / (1 + tf.abs(x))]


def _size(op):
    """Height and width of the gradient that a resizing's gradient was given."""
    return tf.shape(op.inputs[0])[1:3]


def _attributes(op, *names):
    return {name: op.get_attr(name) for name in names}


def _nearest_grad(op, u):
    settings = _attributes(op, "align_corners", "half_pixel_centers")
    return [gen_image_ops.resize_nearest_neighbor(u, _size(op), **settings), None]


def _bilinear_grad(original, op, u):
    """Of what stands in a graph; eagerly TensorFlow forgets the inputs (see `exact.images`)."""
    del original
    if op.inputs is None:
        raise refusal("ResizeBilinearGrad", ": TensorFlow has no second derivative of it eagerly")
    settings = _attributes(op, "align_corners", "half_pixel_centers")
    return [gen_image_ops.resize_bilinear(u, _size(op), **settings), None]


def _bicubic_grad(op, u):
    settings = _attributes(op, "align_corners", "half_pixel_centers")
    return [gen_image_ops.resize_bicubic(u, _size(op), **settings), None]


def _scale_and_translate_grad(op, u):
    settings = _attributes(op, "kernel_type", "antialias")
    kernel = settings.pop("kernel_type")
    settings["kernel_type"] = kernel.decode() if isinstance(kernel, bytes) else kernel
    scale, translation = op.inputs[2:]
    y = gen_image_ops.scale_and_translate(u, _size(op), scale, translation, **settings)
    return [y, None, None, None]


def _crop_and_resize_grad_image(op, u):
    g, boxes, indices, _ = op.inputs
    method = op.get_attr("method")
    method = method.decode() if isinstance(method, bytes) else method
    crops = gen_image_ops.crop_and_resize(u, boxes, indices, _size(op), method=method)
    # Bilinear in g and u, so the boxes have here the derivative that they have in the first order.
    return [crops, gen_image_ops.crop_and_resize_grad_boxes(g, u, boxes, indices), None, None]


_GIVEN = {
    "SoftsignGrad": _softsign_grad,
    "ResizeNearestNeighborGrad": _nearest_grad,
    "ResizeBicubicGrad": _bicubic_grad,
    "ScaleAndTranslateGrad": _scale_and_translate_grad,
    "CropAndResizeGradImage": _crop_and_resize_grad_image,
}
