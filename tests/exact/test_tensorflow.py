"""Operations of TensorFlow that no function of `keras.ops` ends in: right twice, or refused.

All that TensorFlow declares not differentiable is in a table; a new one makes a test fail.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry, ops

from maml_tf import exact
from maml_tf.exact import registry
from tests.exact.test_ops import ANY, IMAGE, POSITIVE, SQUARE, Case, definite, deviations, random

pytestmark = pytest.mark.usefixtures("float64")
raw = tf.raw_ops
BETWEEN = np.clip(POSITIVE, 0.1, 0.9)
FLAT = [0, 2, 1, 1, 2, 0]


def of(point=ANY, **functions):
    return {name: Case(f, point) for name, f in functions.items()}


def single(**functions):
    return {name: Case(f, IMAGE, single=True) for name, f in functions.items()}


def named(module, point, *names):
    return {name: Case(getattr(module, name), point) for name in names}


def constant(x, value):
    return tf.fill(tf.shape(x), tf.constant(value, x.dtype))


def sparse(x):
    places = tf.constant([[0, 0], [0, 2], [1, 1]], tf.int64)
    return tf.SparseTensor(places, tf.stack([x[0, 0], x[0, 1], x[1, 2]]), [2, 3])


def ragged(x):
    return tf.RaggedTensor.from_row_lengths(tf.reshape(x, [-1]), [2, 4])


def looped(x):
    """What loops keep: an array of tensors."""
    return tf.TensorArray(x.dtype, 2).write(0, x).write(1, x**2)


# Slow: one by one they take a third of a second of tracing and more.
MATHEMATICS = {
    **named(tf.math, ANY, "bessel_i0e", "bessel_i1e", "bessel_i1", "cumulative_logsumexp"),
    **named(tf.math, POSITIVE, "digamma", "lgamma", "reciprocal_no_nan", "lbeta"),
    **named(tf.math, BETWEEN, "erfcinv", "ndtri"),
    **named(tf.math.special, POSITIVE, "bessel_j0", "bessel_j1", "bessel_k0", "bessel_k0e"),
    **named(tf.math.special, POSITIVE, "bessel_k1", "bessel_k1e", "bessel_y0", "bessel_y1"),
    **named(tf.math.special, POSITIVE, "dawsn", "expint", "fresnel_cos", "fresnel_sin", "spence"),
    **of(
        1 + POSITIVE,
        igamma=lambda x: tf.math.igamma(constant(x, 1.5), x),
        igammac=lambda x: tf.math.igammac(constant(x, 1.5), x),
        polygamma=lambda x: tf.math.polygamma(constant(x, 1.0), x),
        zeta=lambda x: tf.math.zeta(constant(x, 2.0), x),
        xdivy=lambda x: tf.math.xdivy(x, x[::-1]),
        xlog1py=lambda x: tf.math.xlog1py(x, x[::-1]),
        xlogy=lambda x: tf.math.xlogy(x, x[::-1]),
        multiply_no_nan=lambda x: tf.math.multiply_no_nan(x, x[::-1]),
        nextafter=lambda x: tf.math.nextafter(x, x[::-1]),
    ),
    **of(BETWEEN, betainc=lambda x: tf.math.betainc(constant(x, 1.5), constant(x, 2.5), x)),
    **of(
        accumulate_n=lambda x: tf.math.accumulate_n([x, x**2, x**3]),
        clip_by_value=lambda x: tf.clip_by_value(x, x[0, 1], x[0, 2] ** 2),
        clip_by_norm=lambda x: tf.clip_by_norm(x, 1.0),
        nth_element=lambda x: raw.NthElement(input=x, n=1),
        segment_mean=lambda x: tf.math.segment_mean(tf.reshape(x, [-1]), [0, 0, 1, 1, 3, 3]),
        segment_prod=lambda x: tf.math.segment_prod(tf.reshape(x, [-1]), [0, 0, 1, 1, 2, 2]),
        segment_prod_with_zero=lambda x: tf.math.segment_prod(
            tf.reshape(x - ANY[0, 0], [-1]), [0, 0, 1, 1, 2, 2]
        ),
        unsorted_segment_mean=lambda x: tf.math.unsorted_segment_mean(tf.reshape(x, [-1]), FLAT, 3),
        unsorted_segment_sqrt_n=lambda x: tf.math.unsorted_segment_sqrt_n(
            tf.reshape(x, [-1]), FLAT, 3
        ),
        where_v1=lambda x: raw.Select(condition=x > 0, x=x**2, y=x**3),
        sparse_matmul=lambda x: tf.matmul(x, x, transpose_b=True, a_is_sparse=True),
        isotonic=lambda x: tf.nn.isotonic_regression(x)[0],
        weighted_moments=lambda x: tf.nn.weighted_moments(x, [1], 1 + x**2),
        silu_of_learned_slope=lambda x: tf.nn.silu(x, beta=x[0, 0]),
        l2_loss=tf.nn.l2_loss,
        truncated=lambda x: tf.random.stateless_parameterized_truncated_normal(
            [2, 3], [1, 2], x, 1 + x**2, constant(x, -2.0), constant(x, 2.0)
        ),
        embedding=lambda x: tf.nn.embedding_lookup(x, [0, 1, 1], max_norm=0.5),
    ),
}
ARRAYS = of(
    strided_slice_update=lambda x: raw.TensorStridedSliceUpdate(
        input=x, begin=[0, 0], end=[1, 2], strides=[1, 1], value=x[1:, :2] ** 2
    ),
    tensor_scatter_min=lambda x: tf.tensor_scatter_nd_min(x, [[0, 1], [0, 0]], x[1, :2] ** 2),
    reverse_sequence=lambda x: tf.reverse_sequence(x, [2, 3], seq_axis=1),
    pad_with_a_weight=lambda x: tf.pad(x, [[1, 1], [0, 2]], constant_values=x[0, 0] ** 2),
    pad_with_a_weight_alone=lambda x: tf.pad(
        constant(x, 1.0), [[1, 1], [0, 2]], constant_values=x[0, 0] ** 2
    ),
    boolean_mask=lambda x: tf.boolean_mask(x, x > 0),
    dynamic_partition=lambda x: tf.dynamic_partition(x, [0, 1], 2),
    dynamic_stitch=lambda x: tf.dynamic_stitch([[0, 1], [1, 2]], [x, x**2]),
    dynamic_stitch_of_matrices=lambda x: tf.dynamic_stitch(
        [[[0, 2]], [[1, 0]]], [x[tf.newaxis], x[tf.newaxis] ** 2]
    ),
    diag_of_several=lambda x: tf.linalg.diag(x, k=(-1, 0)),
    diag_part=lambda x: tf.linalg.diag_part(x, k=(-1, 0)),
    band_part=lambda x: tf.linalg.band_part(x, 0, 1),
    space_to_batch=lambda x: tf.space_to_batch(
        tf.reshape(x, [1, 2, 3, 1]), [1, 3], [[0, 0], [0, 0]]
    ),
    extract_patches=lambda x: tf.image.extract_patches(
        tf.reshape(x, [1, 2, 3, 1]), [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], "SAME"
    ),
    complex_power=lambda x: tf.math.abs(tf.pow(tf.complex(x, 1 + x**2), tf.complex(x, x))),
    sparse_dense_matmul=lambda x: tf.sparse.sparse_dense_matmul(sparse(x), tf.transpose(x)),
    sparse_to_dense=lambda x: tf.sparse.to_dense(sparse(x), default_value=x[0, 0] ** 2),
    sparse_add_dense=lambda x: tf.sparse.add(sparse(x), x),
    sparse_reduce_sum=lambda x: tf.sparse.reduce_sum(sparse(x), 1),
    sparse_reorder=lambda x: tf.sparse.reorder(sparse(x)).values,
    sparse_multiply=lambda x: (sparse(x) * x).values,
    sparse_divide=lambda x: (sparse(x) / (1 + x**2)).values,
    ragged_to_tensor=lambda x: ragged(x).to_tensor(default_value=x[0, 0] ** 2),
    ragged_sum=lambda x: tf.reduce_sum(ragged(x) ** 2, 1),
    ragged_gather=lambda x: tf.gather(ragged(x), [1, 0]).to_tensor(),
    array_stack=lambda x: looped(x).stack(),
    array_concat=lambda x: looped(x).concat(),
    array_gather=lambda x: looped(x).gather([1, 0]),
    array_split=lambda x: (
        tf.TensorArray(x.dtype, 2, element_shape=[1, 3]).split(x**2, [1, 1]).read(0)
    ),
    map_fn=lambda x: tf.map_fn(lambda t: t**2, x),
    vectorized_map=lambda x: tf.vectorized_map(lambda t: t**3, x),
    scan=lambda x: tf.scan(lambda a, t: a * t, x),
)
MATRICES = of(
    SQUARE,
    cholesky_solve=lambda x: tf.linalg.cholesky_solve(tf.linalg.cholesky(definite(x)), x),
    expm=tf.linalg.expm,
    sqrtm=lambda x: tf.linalg.sqrtm(definite(x)),
    triangular_solve=lambda x: tf.linalg.triangular_solve(x, x**2, adjoint=True),
    banded=lambda x: tf.linalg.banded_triangular_solve(x[:2] + 3.0, x[:, :2]),
    lstsq=lambda x: tf.linalg.lstsq(x, x[:, :2], l2_regularizer=0.5),
    lstsq_wide=lambda x: tf.linalg.lstsq(x[:2], x[:2, :2], l2_regularizer=0.5),
    lstsq_tall=lambda x: tf.linalg.lstsq(x[:, :2], x[:, 2:], l2_regularizer=0.5),
    tridiagonal_solve=lambda x: tf.linalg.tridiagonal_solve(
        x + 3 * tf.constant([[0.0], [1.0], [0.0]], x.dtype), x[0], diagonals_format="compact"
    ),
    tridiagonal_matmul=lambda x: tf.linalg.tridiagonal_matmul(x, x**2, diagonals_format="compact"),
    householder=lambda x: tf.linalg.LinearOperatorHouseholder(x[0]).to_dense(),
)
SIGNALS = of(
    random(2, 8),
    rfft2d=tf.signal.rfft2d,
    irfft2d=lambda x: tf.signal.irfft2d(tf.signal.rfft2d(x**2)),
    fft3d=lambda x: tf.signal.fft3d(tf.complex(x, x**2)[tf.newaxis]),
    dct=tf.signal.dct,
    dct_1=lambda x: tf.signal.dct(x, 1),
    dct_4=lambda x: tf.signal.dct(x, 4),
    frame=lambda x: tf.signal.frame(x, 4, 2),
    overlap_and_add=lambda x: tf.signal.overlap_and_add(x[tf.newaxis], 2),
    mdct=lambda x: tf.signal.inverse_mdct(tf.signal.mdct(x, 4)),
)
PICTURES = {
    **of(
        IMAGE,
        total_variation=tf.image.total_variation,
        sobel=tf.image.sobel_edges,
        max_pool_v2=lambda x: raw.MaxPoolV2(
            input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME"
        ),
        max_pool_padded=lambda x: tf.nn.max_pool2d(x, 2, 1, [[0, 0], [1, 0], [0, 1], [0, 0]]),
        atrous=lambda x: tf.nn.atrous_conv2d(x, x[0, :2, :2, :, tf.newaxis], 2, "SAME"),
    ),
    **single(
        resize_mitchell=lambda x: tf.image.resize(x, (4, 9), "mitchellcubic"),
        resize_gaussian=lambda x: tf.image.resize(x, (4, 9), "gaussian"),
        resize_with_pad=lambda x: tf.image.resize_with_pad(x, 8, 8),
        fused_batch_norm=lambda x: tf.compat.v1.nn.fused_batch_norm(x, x[0, 0, 0], x[0, 0, 1])[0],
        fused_with_given_statistics=lambda x: tf.compat.v1.nn.fused_batch_norm(
            x, x[0, 0, 0], x[0, 0, 1], mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0],
            is_training=False,
        )[0],
    ),
}  # fmt: skip
CASES = MATHEMATICS | ARRAYS | MATRICES | SIGNALS | PICTURES

# By the operation in whose name it is refused, and why.
REFUSED = {
    "Betainc": (
        "`a`",
        Case(lambda x: tf.math.betainc(x, constant(x, 1.0), constant(x, 0.3)), BETWEEN),
    ),
    "Betainc/b": (
        "`b`",
        Case(lambda x: tf.math.betainc(constant(x, 1.0), x, constant(x, 0.3)), BETWEEN),
    ),
    "Zeta": ("`x`", Case(lambda x: tf.math.zeta(x, constant(x, 2.0)), 1 + POSITIVE)),
    "Polygamma": ("`a`", Case(lambda x: tf.math.polygamma(x, x), 1 + POSITIVE)),
    "MatrixSolveLs": (
        "`l2_regularizer`",
        Case(
            lambda x: raw.MatrixSolveLs(matrix=x, rhs=x[:, :2], l2_regularizer=x[0, 0] ** 2),
            SQUARE,
        ),
    ),
    "MatrixDiagV3": (
        "`padding_value`",
        Case(lambda x: tf.linalg.diag(x[0], padding_value=x[0, 0]), ANY),
    ),
    "MatrixDiagPartV3": (
        "`padding_value`",
        Case(lambda x: tf.linalg.diag_part(x, k=(-1, 0), padding_value=x[0, 0]), ANY),
    ),
    "ScaleAndTranslate": (
        "`scale`",
        Case(
            lambda x: raw.ScaleAndTranslate(
                images=x, size=[4, 9], scale=[1.0 + x[0, 0, 0, 0], 1.5], translation=[0.0, 0.0]
            ),
            IMAGE,
            single=True,
        ),
    ),
    "QuantizeAndDequantizeV4Grad": (
        "no derivative",
        Case(
            lambda x: tf.quantization.quantize_and_dequantize_v2(
                x, x[0, 1], x[0, 2], range_given=True
            ),
            ANY,
        ),
    ),
    "FusedBatchNormV3": (
        "`mean`",
        Case(
            lambda x: tf.compat.v1.nn.fused_batch_norm(
                x, x[0, 0, 0], x[0, 0, 1], mean=x[0, 1, 0], variance=x[0, 1, 1], is_training=False
            )[0],
            IMAGE,
            single=True,
        ),
    ),
    "FusedBatchNormV3/statistics": (
        "mean and variance",
        Case(
            lambda x: tf.compat.v1.nn.fused_batch_norm(x, x[0, 0, 0], x[0, 0, 1])[1:],
            IMAGE,
            single=True,
        ),
    ),
    "OneHot": ("wrong", Case(lambda x: tf.one_hot([0, 2], 3, x[0, 0], x[0, 1]), ANY)),
    "LinSpace": ("wrong", Case(lambda x: raw.LinSpace(start=x[0, 0], stop=x[0, 2], num=4), ANY)),
    "Range": ("wrong", Case(lambda x: tf.range(x[0, 0], x[0, 0] + 2.2, 0.5), ANY)),
    "RaggedRange": (
        "wrong",
        Case(lambda x: tf.ragged.range(x[0, 0], x[0, 0] + 2.2, 0.5).flat_values, ANY),
    ),
    "CTCGreedyDecoder": (
        "wrong",
        Case(lambda x: tf.nn.ctc_greedy_decoder(x[:, tf.newaxis], [2])[1], ANY),
    ),
    "SparseSparseMaximum": (
        "no derivative",
        Case(lambda x: tf.sparse.maximum(sparse(x), sparse(x**2)).values, ANY),
    ),
    "eigh_tridiagonal": (
        "bisection",
        Case(lambda x: tf.linalg.eigh_tridiagonal(x[0], x[1, :2]), ANY),
    ),
    "PreventGradient": (
        "ctc_loss",
        Case(
            lambda x: tf.compat.v1.nn.ctc_loss(
                tf.sparse.from_dense([[1]]), tf.reshape(x, [5, 1, 12]), [5]
            ),
            IMAGE,
            single=True,
        ),
    ),
}

# Declared not differentiable though floats go in and come out; what is lost is in `registry._LOST`.
WITHOUT_GRADIENT = {
    **dict.fromkeys(
        ("Assign", "AssignAdd", "AssignSub", "ScatterAdd", "ScatterDiv", "ScatterMul", "StackPush")
        + ("ScatterNdAdd", "ScatterNdSub", "ScatterNdUpdate", "ScatterSub"),
        "is a state of TensorFlow 1",
    ),
    **dict.fromkeys(
        ("EditDistance", "OnesLike", "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2")
        + ("StatelessRandomBinomial", "StatelessRandomPoisson", "ZerosLike"),
        "is a step function",
    ),
    **dict.fromkeys(("PyFunc", "PyFuncStateless"), "is in `exact.python_functions`"),
    **dict.fromkeys(("TensorArrayGradV3", "TensorArrayGradWithShape"), "makes an array"),
    **dict.fromkeys(("SdcaOptimizer", "SdcaOptimizerV2"), "trains by itself"),
    "LoadAndRemapMatrix": "reads a file",
    "ResizeBilinearGrad": "is in `exact.images`",
    "StopGradient": "stops derivatives by design",
    "TPUReplicatedInput": "belongs to another device",
}
FLOATS = {dtype.as_datatype_enum for dtype in (tf.float16, tf.float32, tf.float64)}


def takes_floats(definition, arguments):
    for argument in arguments:
        types = {argument.type}
        name = argument.type_attr or argument.type_list_attr
        if name:
            attribute = next(a for a in definition.attr if a.name == name)
            types = set(attribute.allowed_values.list.type) or FLOATS
        if types & FLOATS:
            return True
    return False


def test_every_operation_without_a_gradient_is_looked_at():
    with exact.operations():
        pass
    found = set()
    for name in ops.gradient_registry.list():
        definition, gradient = op_def_registry.get(name), ops.gradient_registry.lookup(name)
        if definition is None or (gradient is not None and name not in registry._LOST):
            continue
        if all(takes_floats(definition, a) for a in (definition.input_arg, definition.output_arg)):
            found.add(name)
    variants = {"TensorListPushBackBatch", "TensorListConcatLists"}  # of lists of floats
    wrong = {name for name in registry._LOST if name.startswith("ImageProjective")}
    assert found - set(registry._LOST) == set(WITHOUT_GRADIENT) - {"ResizeBilinearGrad"}
    assert set(registry._LOST) - found - variants - wrong == set()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_both_derivatives_are_right(case, traced):
    first, second = deviations(case._replace(traced=traced))
    near = 2e-3 if case.single else 1e-6
    assert first < near
    assert second < near


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_right_is_refused_by_name(name):
    why, case = REFUSED[name]
    with pytest.raises(NotImplementedError, match=f"through `{name.split('/')[0]}`.*{why}"):
        deviations(case)


def within(function, x):
    """In a function that another one calls, where no tape is asked what it needs."""
    return tf.function(function, autograph=False)(x)


@pytest.mark.parametrize("name", ["Betainc", "MatrixDiagV3", "OneHot", "eigh_tridiagonal"])
def test_it_is_refused_in_a_function_within_the_graph_too(name):
    case = REFUSED[name][1]
    nested = case._replace(function=lambda x: within(case.function, x), traced=True)
    with pytest.raises(NotImplementedError, match=f"through `{name}`"):
        deviations(nested)


@pytest.mark.parametrize("name", ["betainc", "dynamic_stitch", "pad_with_a_weight", "diag_part"])
def test_in_a_function_within_the_graph_it_is_right(name):
    case = CASES[name]
    nested = case._replace(function=lambda x: within(case.function, x), traced=True)
    assert max(deviations(nested)) < 1e-6


@pytest.mark.parametrize("name", registry._FAILING)
def test_the_registered_gradient_still_fails(name):
    """If this fails, TensorFlow may have mended it: look at its entry in `_FAILING`."""
    with exact.operations():
        pass
    assert ops.gradient_registry.lookup(name).__module__ == registry.__name__


@pytest.mark.parametrize("name", ["dynamic_stitch", "pad_with_a_weight"])
def test_it_is_still_wrong_without(name):
    """If this fails, TensorFlow has put it right: its entry in `exact.corrected` may go."""
    case = CASES[name]
    x = tf.constant(case.point)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(case.function(x))
    gradient = tape.gradient(y, x)
    step = 1e-6
    direction = np.ones_like(case.point)
    ahead, behind = (tf.reduce_sum(case.function(x + s * direction)) for s in (step, -step))
    assert abs((ahead - behind) / (2 * step) - tf.reduce_sum(gradient)) > 1e-2


def test_eigenvalues_by_bisection_still_have_another_derivative():
    """If this fails, TensorFlow may have mended `tf.linalg.eigh_tridiagonal`."""
    diagonal = tf.constant([0.3, -0.7, 1.1], tf.float64)
    beside = tf.constant([0.9, 0.55], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(diagonal)
        largest = tf.linalg.eigh_tridiagonal(diagonal, beside)[-1]
    whole = tf.linalg.diag(diagonal) + tf.linalg.diag(beside, k=1) + tf.linalg.diag(beside, k=-1)
    expected = tf.linalg.eigh(whole)[1][:, -1] ** 2
    assert np.max(np.abs(tape.gradient(largest, diagonal) - expected)) > 1e-2
