"""A converted file is run once before anybody gets it, beside the functions that it is made of."""

import contextlib
import warnings

import numpy as np
import tensorflow as tf

# In float32 both round differently, and steps of adaptation carry that on.
_TOLERANCE = 1e-2


def run(content, functions, requests, compare=True):
    """Runs each signature of a file on requests, and compares the answers with TensorFlow's.

    Args:
        content: `bytes` of the file.
        functions: concrete functions by signature.
        requests: dicts of arrays by signature, `adapt` first: `predict_with` gets its answer.
        compare: bool, whether the answers are to be those of the functions.

    Raises:
        RuntimeError: LiteRT does not run it, or computes something else.
    """
    try:
        with _quiet():
            interpreter, adapted = _interpreter()(model_content=content, num_threads=1), {}
            for name, request in requests.items():
                request = request | adapted if name == "predict_with" else request
                answers = interpreter.get_signature_runner(name)(**request)
                adapted = answers if name == "adapt" else adapted
                if compare:
                    tensors = {key: tf.constant(value) for key, value in request.items()}
                    _compare(name, answers, functions[name](**tensors))
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            "Expected a file that LiteRT runs, and that computes what TensorFlow does. Received, "
            f"from a task of made-up numbers: {str(error)[:300]} Serve this learner by "
            "`maml_tf.serving.export`, or use other layers, and please report it."
        ) from error


def _compare(name, answers, expected):
    for key, wanted in expected.items():
        wanted, answer = wanted.numpy(), answers[key]
        largest = np.nanmax(np.abs(wanted), initial=0)
        if not np.allclose(answer, wanted, _TOLERANCE, _TOLERANCE * largest, equal_nan=True):
            difference = np.abs(answer - wanted).max()
            raise ValueError(
                f"`{key}` of {name!r} differ by {difference:.3g} from TensorFlow's, of which the "
                f"largest is {largest:.3g}."
            )


def runner(content, signature):
    """What runs a signature of a file: a function of arrays by name."""
    with _quiet():
        return _interpreter()(model_content=content, num_threads=1).get_signature_runner(signature)


def _interpreter():
    """LiteRT's interpreter; TensorFlow has one, too, which it is going to give up."""
    with contextlib.suppress(ImportError):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter
    return tf.lite.Interpreter


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
