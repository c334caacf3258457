"""First and second derivatives of every function of `keras.ops` against central differences.

Each public function of `keras.ops` and each loss of `keras.losses` stands in `CASES`, in
`REFUSED` or in `WITHOUT_DERIVATIVE`; one that is in none makes a test fail, so that a new one is
looked at.
"""

import inspect
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from maml_tf import exact

o = keras.ops
pytestmark = pytest.mark.usefixtures("float64")


class Case(NamedTuple):
    """A function of an array, and the point at which it is differentiated."""

    function: object
    point: np.ndarray
    single: bool = False  # float32, as TensorFlow has nothing else
    traced: bool = False  # in a `tf.function`, as in the learners


ANY = np.array([[0.3, -0.7, 1.1], [-0.4, 0.9, 0.55]])
POSITIVE = np.array([[0.3, 0.7, 1.2], [0.4, 0.9, 0.55]])
UNIT = np.array([[0.3, -0.7, 0.15], [-0.4, 0.85, 0.55]])
LINE = np.array([0.3, -0.7, 1.1, -0.4, 0.9, 0.55])
SQUARE = np.array([[2.0, 0.3, -0.5], [0.1, 1.5, 0.4], [0.6, -0.2, 1.1]])
LARGE = 4 * ANY + 0.1


def random(*shape, low=-1.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, size=shape)


IMAGE = random(1, 5, 4, 3, low=0.05, high=0.95)
OTHER = np.random.default_rng(1).normal(size=(2, 3))


def like(x, seed=1):
    """Other numbers of that shape, constants."""
    return tf.constant(np.random.default_rng(seed).normal(size=x.shape), x.dtype)


def symmetric(x):
    return x + o.transpose(x)


def definite(x):
    return o.matmul(x, o.transpose(x)) + o.eye(3, dtype=x.dtype)


def at(point, *names):
    """Functions of one array, at a point."""
    return {name: Case(getattr(o, name), point) for name in names}


def both(point, *names):
    """Functions of two arrays, which depend on the weights both."""

    def case(f):
        return Case(lambda x: f(x, 1.3 * x[::-1] + 0.2), point)

    return {name: case(getattr(o, name)) for name in names}


def of(point=ANY, **functions):
    return {name: Case(f, point) for name, f in functions.items()}


def single(**functions):
    return {name: Case(f, IMAGE, single=True) for name, f in functions.items()}


def traced(point=ANY, **functions):
    return {name: Case(f, point, traced=True) for name, f in functions.items()}


ELEMENTS = {
    **at(ANY, "abs", "absolute", "arcsinh", "arctan", "cbrt", "celu", "conj", "conjugate", "copy"),
    **at(ANY, "cos", "cosh", "deg2rad", "elu", "erf", "erfc", "exp", "exp2", "expm1", "fabs"),
    **at(ANY, "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "i0"),
    **at(ANY, "leaky_relu", "log_sigmoid", "nan_to_num", "negative", "rad2deg", "real"),
    **at(ANY, "reciprocal", "relu", "relu6", "selu", "sigmoid", "silu", "sin", "sinc", "sinh"),
    **at(ANY, "soft_shrink", "hard_shrink", "softplus", "softsign", "sparse_plus"),
    **at(ANY, "sparse_sigmoid", "square", "squareplus", "swish", "tan", "tanh", "tanh_shrink"),
    **at(POSITIVE, "log", "log10", "log1p", "log2", "rsqrt", "sqrt"),
    **at(UNIT, "arccos", "arcsin", "arctanh", "erfinv"),
    **at(1 + POSITIVE, "arccosh"),
    **both(POSITIVE, "add", "arctan2", "divide", "divide_no_nan", "fmax", "fmin", "fmod", "hypot"),
    **both(POSITIVE, "logaddexp", "logaddexp2", "maximum", "minimum", "mod", "multiply"),
    **both(POSITIVE, "power", "subtract", "true_divide"),
    **of(
        clip=lambda x: o.clip(x, -0.5, 1.0),
        glu=lambda x: o.glu(x, axis=0),
        threshold=lambda x: o.threshold(x, 0.2, 0.1),
        saturate_cast=lambda x: o.saturate_cast(x, x.dtype),
        cast=lambda x: o.cast(x, x.dtype),
        ldexp=lambda x: o.ldexp(x, tf.constant([1, 2, 3])),
        convert_to_tensor=o.convert_to_tensor,
        array=o.array,
        imag=lambda x: o.imag(tf.complex(x, 1 + x**2)),
        polar=lambda x: o.polar(1 + x**2, x),
        view_as_real=lambda x: o.view_as_real(tf.complex(x, 1 + x**2)),
        square_of_complex=lambda x: o.square(tf.complex(x, 1 + x**2)),
        abs_of_complex=lambda x: o.abs(tf.complex(x, 1 + x**2)),
        exp_of_complex=lambda x: o.exp(tf.complex(x, 1 + x**2)),
        gelu_exact=lambda x: o.gelu(x, approximate=False),
        reciprocal_of_power=lambda x: o.power(1 + x**2, -1.5),
    ),
}

# Keras computes them in float32.
for name, function in {
    "angle": lambda x: o.angle(tf.complex(x, 1 + x**2)),
    "view_as_complex": lambda x: o.view_as_complex(o.stack([x, x**2], -1)),
}.items():
    ELEMENTS[name] = Case(function, ANY, single=True)

REDUCTIONS = {
    **at(ANY, "amax", "amin", "max", "min", "mean", "nanmax", "nanmean", "nanmin", "nanstd"),
    **at(ANY, "nansum", "nanvar", "std", "sum", "var", "ptp", "cumsum", "nancumsum"),
    **at(ANY, "logsumexp", "median", "nanmedian", "nanprod", "prod", "nancumprod", "cumprod"),
    **at(ANY, "norm", "corrcoef"),
    **of(
        average=lambda x: o.average(x, 1, weights=1 + x**2),
        percentile=lambda x: o.percentile(x, 40, axis=1),
        quantile=lambda x: o.quantile(x, 0.4),
        nanpercentile=lambda x: o.nanpercentile(x, 40, axis=1),
        nanquantile=lambda x: o.nanquantile(x, 0.4),
        median_of_even=lambda x: o.median(x, 0),
        moments=lambda x: o.moments(x, [1]),
        normalize=o.normalize,
        normalize_by_sum=lambda x: o.normalize(x, order=1),
        normalize_by_cube=lambda x: o.normalize(x, order=3),
        diff=o.diff,
        trapezoid=lambda x: o.trapezoid(x, o.cumsum(1 + x**2, 1)),
        norm_nuclear=lambda x: o.norm(x, "nuc"),
        norm_spectral=lambda x: o.norm(x, 2),
        norm_of_rows=lambda x: o.norm(x, 3, axis=1),
        norm_largest=lambda x: o.norm(x, np.inf),
        segment_sum=lambda x: o.segment_sum(o.ravel(x), tf.constant([0, 0, 1, 1, 3, 0]), 4),
        segment_max=lambda x: o.segment_max(o.ravel(x), tf.constant([0, 0, 1, 1, 3, 0]), 4)[:2],
        segment_min=lambda x: o.segment_min(o.ravel(x), tf.constant([0, 0, 1, 1, 3, 0]), 4)[:2],
        segment_prod=lambda x: o.segment_prod(o.ravel(x), tf.constant([0, 0, 1, 1, 3, 0]), 4),
        logsumexp_of_rows=lambda x: o.logsumexp(x, axis=1),
    ),
}

SHAPES = {
    **at(ANY, "diagflat", "diagonal", "flip", "fliplr", "flipud", "ravel", "rot90", "squeeze"),
    **at(ANY, "transpose", "tril", "triu", "trace"),
    **of(
        append=lambda x: o.append(x, 2 * x),
        array_split=lambda x: o.array_split(x, 2, axis=1),
        broadcast_to=lambda x: o.broadcast_to(x, (4, 2, 3)),
        concatenate=lambda x: o.concatenate([x, x**2]),
        diag=lambda x: o.diag(x[0]),
        expand_dims=lambda x: o.expand_dims(x, 1),
        hstack=lambda x: o.hstack([x, x**2]),
        vstack=lambda x: o.vstack([x, x**2]),
        dstack=lambda x: o.dstack([x, x**2]),
        stack=lambda x: o.stack([x, x**2]),
        hsplit=lambda x: o.hsplit(x, 3),
        vsplit=lambda x: o.vsplit(x, 2),
        dsplit=lambda x: o.dsplit(x[..., None], 1),
        meshgrid=lambda x: o.meshgrid(x[0], x[1]),
        moveaxis=lambda x: o.moveaxis(x, 0, 1),
        pad=lambda x: o.pad(x, ((1, 1), (1, 2))),
        pad_reflect=lambda x: o.pad(x, ((1, 1), (1, 2)), mode="reflect"),
        pad_symmetric=lambda x: o.pad(x, ((1, 1), (1, 2)), mode="symmetric"),
        rearrange=lambda x: o.rearrange(x, "a b -> b a"),
        repeat=lambda x: o.repeat(x, 2, 1),
        reshape=lambda x: o.reshape(x, (3, 2)),
        roll=lambda x: o.roll(x, 1, 1),
        scatter=lambda x: o.scatter([[0], [2], [0]], x[0], (4,)),
        scatter_update=lambda x: o.scatter_update(x, [[0, 1], [1, 2]], x[0, :2] ** 2),
        scatter_update_add=lambda x: o.scatter_update(
            x, [[0, 1], [0, 1]], x[0, :2] ** 2, reduction="add"
        ),
        scatter_update_max=lambda x: o.scatter_update(
            x, [[0, 1], [1, 1]], x[0, :2] ** 2, reduction="max"
        ),
        scatter_update_mul=lambda x: o.scatter_update(
            x, [[0, 1], [1, 1]], x[0, :2] ** 2, reduction="mul"
        ),
        select=lambda x: o.select([x > 0, x < -0.5], [x**2, x**3]),
        slice=lambda x: o.slice(x, (0, 1), (2, 2)),
        slice_update=lambda x: o.slice_update(x, (0, 1), x[:, :2] ** 2),
        slice_update_from_outside=lambda x: o.slice_update(x, (-1, 3), x[:1, :2] ** 2),
        sort=o.sort,
        split=lambda x: o.split(x, 3, axis=1),
        swapaxes=lambda x: o.swapaxes(x, 0, 1),
        take=lambda x: o.take(x, [0, 2, 2], axis=1),
        take_along_axis=lambda x: o.take_along_axis(x, [[0, 0], [2, 1]], axis=1),
        get_item=lambda x: o.get_item(x, (slice(None), 1)),
        tile=lambda x: o.tile(x, (2, 1)),
        top_k=lambda x: o.top_k(x, 2)[0],
        unstack=o.unstack,
        vander=lambda x: o.vander(x[0]),
        where=lambda x: o.where(x > 0, x**2, x**3),
        linspace=lambda x: o.linspace(x[0], x[1], 4),
        logspace=lambda x: o.logspace(x[0], x[1], 4),
        geomspace=lambda x: o.geomspace(1 + x[0] ** 2, 2 + x[1] ** 2, 4),
        full=lambda x: o.full((2,), x[0, 0]),
        full_like=lambda x: o.full_like(x, x[0, 0]),
        extract_sequences=lambda x: o.extract_sequences(o.ravel(x), 3, 2),
        depth_to_space=lambda x: o.depth_to_space(o.reshape(o.stack([x, x**2]), (1, 1, 3, 4)), 2),
        space_to_depth=lambda x: o.space_to_depth(o.reshape(o.stack([x, x**2]), (1, 2, 2, 3)), 2),
        unfold=lambda x: o.unfold(o.reshape(o.stack([x, x**2]), (1, 1, 3, 4)), 2),
        fold=lambda x: o.fold(o.reshape(o.stack([x, x**2]), (1, 4, 3)), (2, 4), 2),
    ),
}

PRODUCTS = {
    **of(
        cdist=lambda x: o.cdist(x, 1.3 * x[::-1] + 0.2),
        correlate=lambda x: o.correlate(x[0], x[1], mode="full"),
        cross=lambda x: o.cross(x, x[::-1] ** 2),
        dot=lambda x: o.dot(x, o.transpose(x)),
        einsum=lambda x: o.einsum("ab,cb,ad->cd", x, x, x),
        einsum_diagonal=lambda x: o.einsum("aa->a", o.matmul(x, o.transpose(x))),
        inner=lambda x: o.inner(x, x**2),
        kron=lambda x: o.kron(x, x**2),
        matmul=lambda x: o.matmul(x, o.transpose(x)),
        outer=lambda x: o.outer(x, x**2),
        tensordot=lambda x: o.tensordot(x, x**2, 2),
        vdot=lambda x: o.vdot(x, x**2),
    ),
    **of(
        SQUARE,
        cholesky=lambda x: o.cholesky(definite(x)),
        cholesky_inverse=lambda x: o.cholesky_inverse(o.cholesky(definite(x))),
        det=o.det,
        logdet=lambda x: o.logdet(definite(x)),
        slogdet=lambda x: o.slogdet(x)[1],
        eigh=lambda x: o.eigh(symmetric(x))[0],
        eigh_projector=lambda x: o.square(o.eigh(symmetric(x))[1]),
        eig=lambda x: o.eig(definite(x))[0],
        inv=o.inv,
        lstsq=lambda x: o.lstsq(x, x[:, :2] ** 2),
        lstsq_overdetermined=lambda x: o.lstsq(x[:, :2], x[:, 2:] ** 2),
        lstsq_underdetermined=lambda x: o.lstsq(x[:2], x[:2, :2] ** 2),
        pinv=o.pinv,
        pinv_wide=lambda x: o.pinv(x[:2]),
        pinv_tall=lambda x: o.pinv(x[:, :2]),
        qr=o.qr,
        qr_tall=lambda x: o.qr(x[:, :2]),
        solve=lambda x: o.solve(x, x**2),
        solve_triangular=lambda x: o.solve_triangular(x, x**2),
        solve_triangular_lower=lambda x: o.solve_triangular(x, x**2, lower=True),
        svd=lambda x: o.svd(x)[1],
        svd_values=lambda x: o.svd(x, compute_uv=False),
        svd_vectors=lambda x: [o.square(part) for part in o.svd(x)],
        svd_tall=lambda x: [o.square(part) for part in o.svd(x[:, :2], full_matrices=False)],
    ),
    **of(
        random(2, 8),
        fft=lambda x: o.fft((x, x**2)),
        rfft=o.rfft,
        rfft_padded=lambda x: o.rfft(x, 12),
        irfft=lambda x: o.irfft((x[:, :5], x[:, 3:])),
        irfft_padded=lambda x: o.irfft((x[:, :5], x[:, 3:]), 12),
        fft2=lambda x: o.fft2((x, x**2)),
        ifft2=lambda x: o.ifft2((x, x**2)),
        stft=lambda x: o.stft(x, 4, 2, 4),
        istft=lambda x: o.istft(o.stft(x, 4, 2, 4), 4, 2, 4),
    ),
}


NETWORKS = {
    **of(
        batch_normalization=lambda x: o.batch_normalization(x, x[0], 1 + x[1] ** 2, 1, x[0], x[1]),
        dot_product_attention=lambda x: o.dot_product_attention(
            x[None, :, None], x[None, :, None] ** 2, o.sin(x)[None, :, None], is_causal=True
        ),
        layer_normalization=lambda x: o.layer_normalization(x, x[0], x[1]),
        rms_normalization=lambda x: o.rms_normalization(x, x[0]),
        log_softmax=o.log_softmax,
        softmax=o.softmax,
        softmax_of_axes=lambda x: o.softmax(x, axis=(0, 1)),
        sparsemax=o.sparsemax,
        psnr=lambda x: o.psnr(x, x**2, 1.0),
        one_hot=lambda x: x[0] * o.one_hot([0, 2], 3, dtype=x.dtype),
        multi_hot=lambda x: x[0] * o.cast(o.multi_hot(np.array([0, 2]), 3), x.dtype),
        binary_crossentropy=lambda x: o.binary_crossentropy(o.sigmoid(x[0]), o.sigmoid(x[1])),
        binary_crossentropy_of_logits=lambda x: o.binary_crossentropy(
            o.sigmoid(x[0]), x[1], from_logits=True
        ),
        categorical_crossentropy=lambda x: o.categorical_crossentropy(
            o.softmax(x), o.softmax(x**2)
        ),
        categorical_crossentropy_of_logits=lambda x: o.categorical_crossentropy(
            o.softmax(OTHER), x, from_logits=True
        ),
        categorical_crossentropy_of_soft_labels=lambda x: o.categorical_crossentropy(
            o.softmax(x), x**2, from_logits=True
        ),
        sparse_categorical_crossentropy=lambda x: o.sparse_categorical_crossentropy(
            [0, 2], o.softmax(x)
        ),
        sparse_categorical_crossentropy_of_logits=lambda x: o.sparse_categorical_crossentropy(
            [0, 2], x, from_logits=True
        ),
    ),
    **of(
        random(1, 6, 5, 2),
        adaptive_average_pool=lambda x: o.adaptive_average_pool(x, 3),
        adaptive_max_pool=lambda x: o.adaptive_max_pool(x, 3),
        average_pool=lambda x: o.average_pool(x, 3, 2, "same"),
        average_pool_in_one=lambda x: o.average_pool(x[0], 3, 2, "same"),
        max_pool=lambda x: o.max_pool(x, 3, 2, "same"),
        max_pool_in_one=lambda x: o.max_pool(x[0], 3, 2, "same"),
        conv=lambda x: o.conv(x, x[0, :2, :2, :, None], 2, "same"),
        conv_in_one=lambda x: o.conv(x[0], x[0, :2, :2, :], 1, "same"),
        conv_dilated=lambda x: o.conv(x, x[0, :2, :2, :, None], dilation_rate=2),
        conv_of_groups=lambda x: o.conv(x, x[0, :2, :2, :1, None] + x[0, :2, :2, None]),
        conv_transpose=lambda x: o.conv_transpose(x, x[0, :2, :2, None], 2, "same"),
        depthwise_conv=lambda x: o.depthwise_conv(x, x[0, :2, :2, :, None], 2, "same"),
        depthwise_conv_dilated=lambda x: o.depthwise_conv(
            x, x[0, :2, :2, :, None], dilation_rate=2
        ),
        separable_conv=lambda x: o.separable_conv(
            x, x[0, :2, :2, :, None], x[:1, :1, :2, :], 2, "same"
        ),
    ),
    **of(
        random(1, 3, 4, 3, 1),
        conv_in_three=lambda x: o.conv(x, x[0, :2, :2, :2, :, None], 1, "same"),
        conv_transpose_in_three=lambda x: o.conv_transpose(x, x[0, :2, :2, :2, None], 2, "same"),
    ),
}

IMAGES = {
    **of(
        IMAGE,
        **{
            "image.crop_images": lambda x: o.image.crop_images(x, 1, 1, 1, 1),
            "image.pad_images": lambda x: o.image.pad_images(x, 1, 1, 1, 1),
            "image.extract_patches": lambda x: o.image.extract_patches(x, 2, 1),
            "image.extract_patches-dilated": lambda x: o.image.extract_patches(
                x, 2, 1, dilation_rate=2, padding="same"
            ),
            "image.extract_patches_3d": lambda x: o.image.extract_patches_3d(x[..., None], 2, 1),
            "image.elastic_transform": lambda x: o.image.elastic_transform(x, 2.0, 1.0, seed=1),
            "image.gaussian_blur": lambda x: o.image.gaussian_blur(x, (3, 3), (1.0, 1.0)),
            "image.hsv_to_rgb": o.image.hsv_to_rgb,
            "image.map_coordinates": lambda x: o.image.map_coordinates(
                x[0, ..., 0], o.stack([4 * x[0, ..., 1], 3 * x[0, ..., 2]]), 1
            ),
            "image.map_coordinates-nearest": lambda x: o.image.map_coordinates(
                x[0, ..., 0], o.stack([4 * x[0, ..., 1], 3 * x[0, ..., 2]]), 0
            ),
            "image.map_coordinates-reflect": lambda x: o.image.map_coordinates(
                x[0, ..., 0], o.stack([9 * x[0, ..., 1], 8 * x[0, ..., 2]]), 1, "reflect"
            ),
            "image.rgb_to_grayscale": o.image.rgb_to_grayscale,
            "image.rgb_to_hsv": o.image.rgb_to_hsv,
            "image.scale_and_translate": lambda x: o.image.scale_and_translate(
                x, (1, 6, 3, 3), 1 + x[0, 0, 0, :2], x[0, 0, 1, :2], (1, 2), "linear"
            ),
            "image.scale_and_translate-cubic": lambda x: o.image.scale_and_translate(
                x, (1, 6, 3, 3), 1 + x[0, 0, 0, :2], x[0, 0, 1, :2], (1, 2), "cubic"
            ),
            "image.sobel_edges": o.image.sobel_edges,
            "image.ssim": lambda x: o.image.ssim(x, x**2, filter_size=3),
        },
    ),
    **single(
        **{
            f"image.resize-{way}": lambda x, way=way: o.image.resize(x, (4, 9), way)
            for way in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
        },
        **{
            "image.resize": lambda x: o.image.resize(x, (4, 3), antialias=True),
            "image.resize-cropped": lambda x: o.image.resize(x, (4, 3), crop_to_aspect_ratio=True),
            "image.resize-padded": lambda x: o.image.resize(x, (4, 3), pad_to_aspect_ratio=True),
        },
    ),
}


@o.custom_gradient
def cubed(x):
    return x**3, lambda g, upstream=None: (g if upstream is None else upstream) * 3 * x**2


CONTROL = traced(
    associative_scan=lambda x: o.associative_scan(lambda a, b: a * b, x, axis=1),
    cond=lambda x: o.cond(x[0, 0] > 0, lambda: x**2, lambda: x**3),
    custom_gradient=cubed,
    fori_loop=lambda x: o.fori_loop(0, 3, lambda i, y: o.sin(y * x), x),
    map=lambda x: o.map(lambda row: o.cumprod(row), x),
    scan=lambda x: o.scan(lambda c, row: (c * row, o.sin(c)), x[0], x),
    switch=lambda x: o.switch(1, [lambda y: y**2, lambda y: y**3], x),
    vectorized_map=lambda x: o.vectorized_map(lambda row: o.sum(row**3), x),
    while_loop=lambda x: o.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, o.sin(y * x)), (0, x), maximum_iterations=3
    )[1],
    jvp=lambda x: o.jvp(lambda y: o.sin(y) * y, (x,), (x**2,)),
)

# Points where functions are smooth and formulas of derivatives divide by zero or count twice.
SPECIAL = {
    "prod-one-zero": Case(o.prod, np.array([0.0, 0.5, -0.7])),
    "prod-two-zeros": Case(o.prod, np.array([0.0, 0.5, 0.0])),
    "cumprod-one-zero": Case(o.cumprod, np.array([0.3, 0.0, -0.7, 0.4])),
    "cumprod-two-zeros": Case(o.cumprod, np.array([0.3, 0.0, -0.7, 0.0])),
    "logsumexp-equal": Case(o.logsumexp, np.zeros(3)),
    "logaddexp-equal": Case(lambda x: o.logaddexp(x[0], x[1]), np.zeros(2)),
    "logaddexp2-equal": Case(lambda x: o.logaddexp2(x[0], x[1]), np.zeros(2)),
    "lstsq-identity": Case(lambda x: o.lstsq(x, x @ x), np.eye(3)),
    "lstsq-vector": Case(lambda x: o.lstsq(x, x[0]), np.eye(3)),
    "softmax-equal": Case(o.softmax, np.zeros(3)),
    "var-equal": Case(o.var, np.ones(3)),
    "cumprod-rows": Case(lambda x: o.cumprod(x, 0), np.array([[0.3, 0.0], [0.0, 0.4], [1.0, 2.0]])),
    "cumprod-tensorflow": Case(
        lambda x: [
            tf.math.cumprod(x, 1, exclusive=e, reverse=r)
            for e in (False, True)
            for r in (False, True)
        ],
        np.array([[0.3, 0.0, 0.7, 0.2], [0.0, 0.4, 0.0, 0.1]]),
    ),
    "square-of-norm": Case(lambda x: o.norm(x) ** 2, np.array([0.0, 1e-3])),
    "i0-zero": Case(o.i0, np.zeros(2)),
    "power-zero": Case(lambda x: o.power(x, 2), np.zeros(2)),
    "power-three-zero": Case(lambda x: o.power(x, 3.0), np.zeros(2)),
    "silu-zero": Case(o.silu, np.zeros(2)),
    "log_sigmoid-zero": Case(o.log_sigmoid, np.zeros(2)),
    "softplus-zero": Case(o.softplus, np.zeros(2)),
    "logits-zero": Case(
        lambda x: o.binary_crossentropy(0.3 + 0 * x, x, from_logits=True), np.zeros(1)
    ),
    "squareplus-zero": Case(o.squareplus, np.zeros(2)),
    "tanh-zero": Case(o.tanh, np.zeros(2)),
    "sigmoid-zero": Case(o.sigmoid, np.zeros(2)),
    "gelu-zero": Case(o.gelu, np.zeros(2)),
    "erfinv-zero": Case(o.erfinv, np.zeros(2)),
    "arctan2-axis": Case(lambda x: o.arctan2(x[0], x[1]), np.array([0.0, 1.0])),
    "hypot-axis": Case(lambda x: o.hypot(x[0], x[1]), np.array([0.0, 1.0])),
    "cholesky-identity": Case(lambda x: o.cholesky(definite(x)), np.eye(3)),
    "inv-identity": Case(o.inv, np.eye(3)),
    "pinv-identity": Case(o.pinv, np.eye(3)),
    "hsv-gray": Case(lambda x: o.image.rgb_to_hsv(x)[..., 2] ** 2, np.array([[[0.4, 0.2, 0.1]]])),
}

# What TensorFlow gets wrong, silently, and what nothing but the numbers at run time could tell:
# it takes the factors 1 / (s_i - s_j) of equal singular values or eigenvalues for zero.
KNOWN_TO_BE_WRONG = {
    "svd": Case(lambda x: o.sum(o.svd(x)[1]), np.eye(3)),
    "eigh": Case(lambda x: o.sum(o.eigh(symmetric(x))[0] ** 2), np.eye(3)),
    "norm": Case(lambda x: o.norm(x, "nuc"), np.eye(3)),
}

LOSSES = {
    **{
        name: Case(
            lambda x, name=name: getattr(keras.losses, name)()(
                o.softmax(1.5 * x[::-1]), o.softmax(x)
            ),
            ANY,
        )
        for name in (
            *("BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy"),
            *("CategoricalFocalCrossentropy", "CategoricalHinge", "CosineSimilarity", "Dice"),
            *("Huber", "KLDivergence", "LogCosh", "MeanAbsoluteError", "MeanSquaredError"),
            *("MeanAbsolutePercentageError", "MeanSquaredLogarithmicError", "Poisson", "Tversky"),
        )
    },
    **{
        name: Case(
            lambda x, name=name: getattr(keras.losses, name)()(
                tf.constant([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]], x.dtype), x
            ),
            0.7 * ANY,
        )
        for name in ("Hinge", "SquaredHinge")
    },
    **of(
        CategoricalGeneralizedCrossEntropy=lambda x: (
            keras.losses.CategoricalGeneralizedCrossEntropy()(tf.constant([0, 2]), o.softmax(x))
        ),
        SparseCategoricalCrossentropy=lambda x: keras.losses.SparseCategoricalCrossentropy()(
            tf.constant([0, 2]), o.softmax(x)
        ),
        Circle=lambda x: keras.losses.Circle()(
            tf.constant([0, 1, 1, 0]), o.concatenate([x, x**2 + 0.1])
        ),
    ),
}

REFUSED = {
    "Bitcast": Case(lambda x: o.view(x, x.dtype), ANY),
    "DenseBincount": Case(
        lambda x: o.bincount(tf.constant([[0, 1, 1], [2, 0, 1]]), weights=x), ANY
    ),
    "Lu": Case(lambda x: o.lu_factor(x)[0], SQUARE),
    "ctc_loss": Case(
        lambda x: o.ctc_loss([[1, 2]], o.reshape(x, (1, 3, 4)), [2], [3]), IMAGE[0, :4, :3, 0]
    ),
    "ImageProjectiveTransformV3": Case(
        lambda x: o.image.affine_transform(x, tf.constant([[1.0, 0.1, 0, 0, 1, 0, 0, 0]])),
        IMAGE,
        single=True,
    ),
}


def value(case, weights):
    """A number that depends on all of the outputs, none of them linearly."""
    outputs = [
        part
        for y in tf.nest.flatten(case.function(weights))
        if y.dtype.is_floating or y.dtype.is_complex
        for part in ([tf.math.real(y), tf.math.imag(y)] if y.dtype.is_complex else [y])
    ]
    total = 0.0
    for y in outputs:
        waves = tf.sin(1 + tf.range(tf.cast(tf.size(y), tf.float64)))
        total += tf.reduce_sum(tf.sin(tf.cast(tf.reshape(y, [-1]), tf.float64)) * waves)
    return total


def derivatives(case, weights, direction):
    """Value, gradient and the Hessian times a direction, as the learners take them."""
    with exact.refusals(), tf.GradientTape() as outer:
        outer.watch(weights)
        with tf.GradientTape() as inner:
            inner.watch(weights)
            with exact.operations():
                y = value(case, weights)
        with exact.refusals():
            gradient = inner.gradient(y, weights, unconnected_gradients="zero")
            gradient = tf.convert_to_tensor(gradient)  # of rows that were looked up, as learners do
    with exact.refusals():
        product = outer.gradient(
            gradient, weights, output_gradients=direction, unconnected_gradients="zero"
        )
    return y, gradient, tf.convert_to_tensor(product)


def deviations(case):
    """Relative errors of the first and of the second derivative."""
    dtype = tf.float32 if case.single else tf.float64
    weights = tf.constant(case.point, dtype)
    direction = tf.constant(np.random.default_rng(2).normal(size=case.point.shape), dtype)

    def at(point):
        return derivatives(case, point, direction)

    if case.traced:
        at = tf.function(at, autograph=False)
    step = 2e-2 if case.single else 1e-5
    _, gradient, product = at(weights)
    near = [at(weights + k * step * direction) for k in (-2, -1, 1, 2)]

    def difference(i):
        far, back, forth, further = (np.asarray(n[i], np.float64) for n in near)
        return (8 * (forth - back) - (further - far)) / (12 * step)

    def deviation(received, expected):
        return np.max(np.abs(received - expected)) / max(np.max(np.abs(expected)), 1e-3)

    along = np.sum(gradient.numpy() * direction.numpy())
    return deviation(along, difference(0)), deviation(product.numpy(), difference(1))


CASES = ELEMENTS | REDUCTIONS | SHAPES | PRODUCTS | NETWORKS | IMAGES | CONTROL | SPECIAL | LOSSES

WITHOUT_DERIVATIVE = {
    **dict.fromkeys(
        ("all", "allclose", "any", "equal", "greater", "greater_equal", "isclose", "isfinite")
        + ("isin", "isinf", "isnan", "isneginf", "isposinf", "isreal", "less", "less_equal")
        + ("logical_and", "logical_not", "logical_or", "logical_xor", "not_equal", "signbit")
        + ("in_top_k", "is_tensor"),
        "gives truth values",
    ),
    **dict.fromkeys(
        ("argmax", "argmin", "argpartition", "argsort", "count_nonzero", "digitize", "histogram")
        + ("matrix_rank", "nanargmax", "nanargmin", "nonzero", "searchsorted", "unravel_index")
        + ("ctc_decode",),
        "gives integers",
    ),
    **dict.fromkeys(
        ("bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_not", "bitwise_or")
        + ("bitwise_right_shift", "bitwise_xor", "gcd", "lcm", "left_shift", "right_shift"),
        "takes integers",
    ),
    **dict.fromkeys(
        ("arange", "bartlett", "blackman", "empty", "empty_like", "eye", "hamming", "hanning")
        + ("identity", "kaiser", "ones", "ones_like", "tri", "zeros", "zeros_like"),
        "is a constant",
    ),
    **dict.fromkeys(
        ("ceil", "floor", "floor_divide", "heaviside", "nextafter", "round", "sign", "trunc"),
        "is a step, or one that is next to the identity",
    ),
    **dict.fromkeys(("dtype", "ndim", "shape", "size", "unique"), "tells of a tensor"),
    **dict.fromkeys(("convert_to_numpy", "stop_gradient"), "stops derivatives by design"),
    "vectorize": "raises on TensorFlow",
}

# Functions that stand in `REFUSED`, by the name of the operation.
REFUSED_NAMES = {
    *("view", "bincount", "lu_factor", "ctc_loss"),
    *("image.affine_transform", "image.perspective_transform"),
}


def public_functions(module, prefix=""):
    return {
        prefix + name
        for name, member in inspect.getmembers(module, callable)
        if not name.startswith("_") and not inspect.isclass(member)
    }


def test_every_function_of_keras_ops_is_looked_at():
    public = public_functions(keras.ops) | public_functions(keras.ops.image, "image.")
    known = set(CASES) | set(WITHOUT_DERIVATIVE) | REFUSED_NAMES
    assert public - known == set()
    assert (set(WITHOUT_DERIVATIVE) | REFUSED_NAMES) - public == set()


def test_every_submodule_of_keras_ops_is_looked_at():
    """Their functions are those of `keras.ops`, but for those of images."""
    for name, module in inspect.getmembers(keras.ops, inspect.ismodule):
        if not name.startswith("_") and name != "image":
            assert public_functions(module) <= public_functions(keras.ops), name


def test_every_loss_of_keras_is_looked_at():
    classes = {name for name, _ in inspect.getmembers(keras.losses, inspect.isclass)}
    assert classes - set(LOSSES) == {"CTC", "Loss"}  # CTC is refused, as `ctc_loss`
    functions = {name.replace("_", "") for name in public_functions(keras.losses)}
    assert functions - {name.lower() for name in classes} == {"deserialize", "get", "serialize"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_derivatives_are_right(case):
    first, second = deviations(case)
    near = 2e-3 if case.single else 1e-6
    assert first < near
    assert second < near


@pytest.mark.parametrize("operation", REFUSED)
def test_what_is_not_right_is_refused_by_name(operation):
    with pytest.raises(NotImplementedError, match=f"through `{operation}`"):
        deviations(REFUSED[operation])


@pytest.mark.parametrize("name", KNOWN_TO_BE_WRONG)
def test_tensorflow_still_gets_equal_singular_values_wrong(name):
    """If this fails, it is mended: the entry belongs into `SPECIAL`."""
    first, second = deviations(KNOWN_TO_BE_WRONG[name])
    assert first < 1e-6
    assert second > 1e-2


TIES = {
    "max": lambda x: o.max(x),
    "amin": lambda x: o.amin(x),
    "maximum": lambda x: o.maximum(x[0], x[1]),
    "minimum": lambda x: o.minimum(x[0], x[1]),
    "fmax": lambda x: o.fmax(x[0], x[1]),
    "sort": lambda x: o.sort(x)[1],
    "top_k": lambda x: o.top_k(x, 1)[0][0],
    "median": lambda x: o.median(x),
    "segment_max": lambda x: o.segment_max(x, tf.constant([0, 0]), 1)[0],
    "max_pool": lambda x: o.max_pool(o.reshape(x, (1, 2, 1)), 2)[0, 0, 0],
    "quantile": lambda x: o.quantile(x, 0.3),
}


@pytest.mark.parametrize("function", TIES.values(), ids=TIES)
def test_of_equal_elements_the_derivatives_are_shares_of_one(function):
    x = tf.constant([0.5, 0.5], tf.float64)
    with exact.operations(), tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    gradient = tape.gradient(y, x).numpy()
    assert np.all(gradient >= 0)
    np.testing.assert_allclose(gradient.sum(), 1.0)


AT_ZERO = {
    "sqrt": lambda x: o.sqrt(x[0]),
    "norm": o.norm,
    "std": o.std,
    "sinc": lambda x: o.sinc(x[0]),
}


@pytest.mark.parametrize("function", AT_ZERO.values(), ids=AT_ZERO)
def test_a_root_of_zero_is_no_silent_number(function):
    x = tf.zeros(2, tf.float64)
    with exact.operations(), tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    assert not np.all(np.isfinite(tape.gradient(y, x)))
