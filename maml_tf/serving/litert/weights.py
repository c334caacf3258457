"""The constants of a converted file, made small: float16 or int8 where that is asked for.

The converter has such a mode, too, but that takes all constants, epsilons and bounds among them:
1e-7 becomes 1.2e-7, and the largest number 65504. Here constants of some size alone are stored in
fewer bits, and a `DEQUANTIZE` in front of what uses them makes float32 of them again, so that
everything is computed in float32 with rounded weights.
"""

import copy

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

PRECISIONS = ("float32", "float16", "int8")

# Constants of fewer numbers stay as they are: there is little to save.
_LEAST = 32
_FLOAT32, _FLOAT16, _INT8 = (
    getattr(schema.TensorType, name) for name in ("FLOAT32", "FLOAT16", "INT8")
)
# By operation, the axis of its kernel, which is its second input, along which its filters stand.
_KERNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}


def stored(content, precision):
    """A converted file with its constants in a precision, and without what running does not need.

    Args:
        content: `bytes` of the file.
        precision: one of `PRECISIONS`: `"float16"` for all constants of some size; `"int8"` for the
            kernels among them but the first and the last, with a scale for each filter, and
            float16 for the others.

    Returns:
        `bytes`.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if precision != "float32":
        code = _dequantize_code(model)
        ends = _ends(model, model.subgraphs) if precision == "int8" else set()
        for graph in model.subgraphs:
            kernels = _kernels(model, graph) if precision == "int8" else {}
            _store(model, graph, kernels, ends, code)
    _strip(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _store(model, graph, kernels, ends, code):
    """Stores the large constants of one graph in fewer bits."""
    before = []
    for index, tensor in enumerate(list(graph.tensors)):
        values = _constant(model, tensor)
        if values is None or values.size < _LEAST or index in graph.outputs:
            continue
        small = copy.copy(tensor)
        if index in kernels and values.tobytes() not in ends:
            small.type, data, small.quantization = _INT8, *_quantized(values, kernels[index])
        else:
            small.type, data = _FLOAT16, values.astype(np.float16)
            if not np.isfinite(data).all():
                continue
        small.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
        # What used the constant goes on using its number, which now is computed.
        tensor.buffer = 0
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = (
            code,
            [len(graph.tensors)],
            [index],
        )
        graph.tensors.append(small)
        before.append(operator)
    graph.operators = before + list(graph.operators)


def _quantized(values, axis):
    """int8 numbers and the `QuantizationParametersT` that makes float32 of them again."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(others) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    data = np.round(values / scale.reshape(shape)).astype(np.int8)
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = scale, np.zeros(len(scale), np.int64)
    parameters.quantizedDimension = axis
    return data, parameters


def _kernels(model, graph):
    """Axes of filters by number of a constant tensor that is a kernel and nothing else."""
    found, others = {}, set()
    for operator in graph.operators:
        axis = _KERNELS.get(_name(model, operator))
        for place, index in enumerate(operator.inputs):
            if axis is not None and place == 1:
                found[index] = axis
            else:
                others.add(index)
    return {index: axis for index, axis in found.items() if index not in others}


def _ends(model, graphs):
    """Contents of the first and the last kernel that rounding changes, of three or more.

    They stay more exact: the first sees so few numbers that errors do not average out, and behind
    the last nothing makes up for them. The same ones in all graphs, which share their weights.
    """
    longest = []
    for graph in graphs:
        changed = []
        for index, axis in _kernels(model, graph).items():
            values = _constant(model, graph.tensors[index])
            if values is not None and values.size >= _LEAST and not _is_exact(values, axis):
                changed.append(values.tobytes())
        longest = max(longest, changed, key=len)
    return {longest[0], longest[-1]} if len(longest) > 2 else set()


def _is_exact(values, axis):
    """Whether int8 loses nothing, as of the kernels of 0 and 1 in `gradients`."""
    data, parameters = _quantized(values, axis)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return np.allclose(data * parameters.scale.reshape(shape), values, rtol=1e-6, atol=0)


def _constant(model, tensor):
    data = model.buffers[tensor.buffer].data
    if tensor.type != _FLOAT32 or data is None or not len(data):
        return None
    return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)


def _name(model, operator):
    code = model.operatorCodes[operator.opcodeIndex]
    return _NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _dequantize_code(model):
    """The number of `DEQUANTIZE` among the kinds of operations of a file."""
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 5  # int8 with a scale for each filter
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _strip(model):
    """Leaves out names of tensors and buffers of nothing: a fifth of a small file."""
    buffers, places = [model.buffers[0]], {}
    for graph in model.subgraphs:
        known = {*graph.inputs, *graph.outputs}
        for index, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name if index in known else b""
            if tensor.type != _INT8:
                tensor.quantization = None
            data = model.buffers[tensor.buffer].data
            content = b"" if data is None else bytes(data)
            if content and content not in places:
                places[content] = len(buffers)
                buffers.append(model.buffers[tensor.buffer])
            tensor.buffer = places[content] if content else 0
    for entry in model.metadata or []:
        buffers.append(model.buffers[entry.buffer])
        entry.buffer = len(buffers) - 1
    model.buffers = buffers


_NAMES = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)
}
