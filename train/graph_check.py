"""Exported models that do nothing but compute: looked at before TensorFlow loads them.

A SavedModel is a program, and TensorFlow has operations that read and write files, print, or call
Python. A model that came from elsewhere needs none of them, but for those that store its weights.
"""

import re

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

# Of files, records and tables of files, of Python, of consoles and logs, and of the network.
_FORBIDDEN = re.compile(
    r"PyFunc|.*ReadFile.*|.*WriteFile.*|MatchingFiles|.*Reader(V2)?|.*TextFile.*|ImmutableConst|"
    r".*(TextLine|TFRecord|FixedLengthRecord|CSV|Sql|Snapshot|List|Save|Load|RecordIO).*Dataset.*|"
    r"(Load|Save)Dataset.*|Print.*|.*Summary.*|Debug.*|.*Rpc.*|.*DataService.*|.*Checkpoint.*|"
    r"(Save|Restore)(V2|Slices?)?|.*PyFunc.*|.*PyCall.*|CollectiveBcast.*|_?(Host)?(Send|Recv).*|"
    r"XlaHostCompute|XlaLaunchV?2?|Copy(Host)?|.*CustomCall.*|MlirPassthroughOp"
)
# TensorFlow writes and reads the weights by these, in functions of its own that nothing else calls.
_STORES = {"SaveV2", "RestoreV2", "MergeV2Checkpoints"}
_STORING = re.compile(r"__inference__traced_(save|restore)_\d+")


def check(path):
    """Checks an exported model, without loading it.

    Args:
        path: `pathlib.Path` of one version.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or has an operation that reaches out of the graph.
    """
    try:
        model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except DecodeError as error:
        raise ValueError(
            f"Expected a whole model. Received: {path}, which cannot be read: {error}. Export it "
            "anew."
        ) from error
    for meta in model.meta_graphs:
        functions = {f.signature.name: f.node_def for f in meta.graph_def.library.function}
        storing = _called_by_the_saver(meta, functions)
        parts = {"": meta.graph_def.node, **functions}
        for name, nodes in parts.items():
            allowed = _STORES if name in storing else set()
            for node in nodes:
                if _FORBIDDEN.fullmatch(node.op) and node.op not in allowed:
                    raise ValueError(
                        f"Expected a model that only computes. Received: {path}, with {node.op} "
                        f"({node.name!r} in {name or 'the graph'!r}), which reaches files, Python, "
                        "logs or the network. Take models only from those whom you trust, and "
                        "export without such operations."
                    )


def _called_by_the_saver(meta, functions):
    """Names of the functions that store weights and that no other function may call."""
    storing = {name for name in functions if _STORING.fullmatch(name)}
    called = {other for nodes in functions.values() for node in nodes for other in _calls(node)}
    called |= set(meta.object_graph_def.concrete_functions)
    return storing - called


def _calls(node):
    """Names of the functions that a node calls."""
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)
