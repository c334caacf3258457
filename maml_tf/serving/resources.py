"""What an exported function uses beside the module's own variables: tables, a layer's constants.

`tf.saved_model.save` writes the resources that hang on the module that it is given. A model's
weights are there as plain variables, and the model itself is not, because it would bring them a
second time. What else its layers hold (the table of a `StringLookup`, a raw `tf.Variable`, the
state of a random generator) hangs on the module one by one, where a function uses it.
"""

import tensorflow as tf


def track(module, owner, functions):
    """Hangs on `module` the resources of `owner` that `functions` use.

    Args:
        module: `tf.Module`, with the variables that it is known to need.
        owner: a trackable object, such as a learner, whose parts may own the others.
        functions: concrete functions.

    Raises:
        ValueError: a function uses a resource that neither is a variable nor belongs to `owner`.
    """
    found = {id(v.handle): v for f in functions for v in f.graph.variables}
    for part in tf.train.TrackableView(owner).descendants():
        if isinstance(part, tf.saved_model.experimental.TrackableResource):
            found[id(part.resource_handle)] = part
    known = {id(v.handle) for v in module.variables}
    used = {}
    for function in functions:
        for external, internal in function.graph.captures:
            if external.dtype != tf.resource or id(external) in known:
                continue
            if id(external) not in found:
                raise ValueError(
                    "Expected a model whose tables and other resources are attributes of its "
                    f"layers, so that an export can hold them. Received: one that uses "
                    f"{internal.name!r}, which belongs to no layer. Make what owns it (a "
                    "`tf.lookup` table, for instance) an attribute of the layer that uses it."
                )
            used[id(external)] = found[id(external)]
    module.resources = list(used.values())
