"""Runs a SavedModel as TensorFlow Serving does: through TensorFlow's C API, without Python's.

As a program, `python c_api.py LIBRARY FOLDER`, it imports no TensorFlow: it loads the folder with
`TF_LoadSessionFromSavedModel` from the wheel's own library and answers requests on its standard
input and output, each an `.npz` behind its length in 8 bytes. As a module it is the other end of
that: `Server(folder)(signature, **inputs)`.
"""

import ctypes
import io
import struct
import subprocess
import sys

import numpy as np

# TF_DataType of the types that requests use.
_CODES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10}
_STRING, _STRING_BYTES = 7, 24  # TF_STRING, and what a TF_TString takes


class _Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Session:
    """A session over a SavedModel, with TensorFlow's defaults: XLA is off, as in the server."""

    def __init__(self, library, folder):
        self._tf = ctypes.CDLL(library)
        for name in ("NewStatus", "NewGraph", "NewSessionOptions", "LoadSessionFromSavedModel"):
            getattr(self._tf, f"TF_{name}").restype = ctypes.c_void_p
        for name in ("GraphOperationByName", "AllocateTensor", "TensorData"):
            getattr(self._tf, f"TF_{name}").restype = ctypes.c_void_p
        for name in ("TensorByteSize", "Dim"):
            getattr(self._tf, f"TF_{name}").restype = ctypes.c_size_t
        self._tf.TF_Message.restype = ctypes.c_char_p
        status = ctypes.c_void_p(self._tf.TF_NewStatus())
        self._graph = ctypes.c_void_p(self._tf.TF_NewGraph())
        options = ctypes.c_void_p(self._tf.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = ctypes.c_void_p(
            self._tf.TF_LoadSessionFromSavedModel(
                options, None, folder.encode(), tags, 1, self._graph, None, status
            )
        )
        self._check(status)

    def _check(self, status):
        code, message = self._tf.TF_GetCode(status), self._tf.TF_Message(status).decode()
        self._tf.TF_DeleteStatus(status)
        if code:
            raise RuntimeError(message)

    def _output(self, name):
        operation, index = name.rsplit(":", 1)
        found = self._tf.TF_GraphOperationByName(self._graph, operation.encode())
        return _Output(found, int(index))

    def _tensor(self, array):
        array = np.asarray(array, order="C")
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        if array.dtype.kind == "S":
            return self._strings(array, shape)
        code = _CODES[array.dtype.name]
        size = ctypes.c_size_t(array.nbytes)
        tensor = ctypes.c_void_p(self._tf.TF_AllocateTensor(code, shape, array.ndim, size))
        data = ctypes.c_void_p(self._tf.TF_TensorData(tensor))
        ctypes.memmove(data, array.ctypes.data, array.nbytes)
        return tensor

    def _strings(self, array, shape):
        size = ctypes.c_size_t(array.size * _STRING_BYTES)
        tensor = ctypes.c_void_p(self._tf.TF_AllocateTensor(_STRING, shape, array.ndim, size))
        start = self._tf.TF_TensorData(tensor)
        for i, item in enumerate(array.flat):
            place = ctypes.c_void_p(start + i * _STRING_BYTES)
            self._tf.TF_StringInit(place)
            self._tf.TF_StringCopy(place, item, ctypes.c_size_t(len(item)))
        return tensor

    def _array(self, tensor):
        codes = {code: name for name, code in _CODES.items()}
        dtype = codes[self._tf.TF_TensorType(tensor)]
        shape = [self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))]
        data = ctypes.c_void_p(self._tf.TF_TensorData(tensor))
        content = ctypes.string_at(data, self._tf.TF_TensorByteSize(tensor))
        return np.frombuffer(content, dtype).reshape(shape)

    def run(self, feeds, fetches):
        """Arrays of `fetches`, by name, for arrays `feeds`, by name; several threads may call."""
        status = ctypes.c_void_p(self._tf.TF_NewStatus())
        inputs = (_Output * len(feeds))(*[self._output(name) for name in feeds])
        values = (ctypes.c_void_p * len(feeds))(*[self._tensor(a).value for a in feeds.values()])
        outputs = (_Output * len(fetches))(*[self._output(name) for name in fetches])
        results = (ctypes.c_void_p * len(fetches))()
        self._tf.TF_SessionRun(
            *(self._session, None, inputs, values, len(feeds)),
            *(outputs, results, len(fetches), None, 0, None, status),
        )
        for value in values:
            self._tf.TF_DeleteTensor(ctypes.c_void_p(value))
        self._check(status)
        arrays = [self._array(ctypes.c_void_p(result)) for result in results]
        for result in results:
            self._tf.TF_DeleteTensor(ctypes.c_void_p(result))
        return dict(zip(fetches, arrays, strict=True))


class Server:
    """A SavedModel in a process of its own.

    Args:
        folder: path of the SavedModel.
    """

    def __init__(self, folder):
        import tensorflow as tf
        from tensorflow.core.protobuf import saved_model_pb2

        content = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        self.signatures = dict(content.meta_graphs[0].signature_def)
        library = f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2"
        self._process = subprocess.Popen(
            [sys.executable, __file__, library, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.modules = self._receive()["modules"]

    def __call__(self, signature, **inputs):
        """The signature's outputs by name; a RuntimeError with what the session said."""
        known = self.signatures[signature]
        feeds = {known.inputs[name].name: np.asarray(array) for name, array in inputs.items()}
        _send(self._process.stdin, feeds, [t.name for t in known.outputs.values()])
        answer = self._receive()
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return {name: answer[tensor.name] for name, tensor in known.outputs.items()}

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _receive(self):
        return _read(self._process.stdout)


def _send(stream, arrays, fetches=()):
    buffer = io.BytesIO()
    names = np.array(list(arrays), dtype=str)
    values = {f"value_{i}": a for i, a in enumerate(arrays.values())}
    np.savez(buffer, names=names, fetches=np.array(fetches, dtype=str), **values)
    stream.write(struct.pack("<q", buffer.tell()) + buffer.getvalue())
    stream.flush()


def _read(stream, fetches=False):
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError("the other end is gone")
    content = np.load(io.BytesIO(stream.read(struct.unpack("<q", head)[0])))
    arrays = {str(name): content[f"value_{i}"] for i, name in enumerate(content["names"])}
    return (arrays, [str(name) for name in content["fetches"]]) if fetches else arrays


def main(library, folder):
    """Answers requests until the standard input ends."""
    session = Session(library, folder)
    # What C++ prints must not get between the answers.
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    _send(stdout, {"modules": np.array(sorted(sys.modules))})
    while True:
        try:
            feeds, fetches = _read(stdin, fetches=True)
        except EOFError:
            return
        try:
            _send(stdout, session.run(feeds, fetches))
        except RuntimeError as error:
            _send(stdout, {"error": np.array(str(error))})


if __name__ == "__main__":
    main(*sys.argv[1:])
