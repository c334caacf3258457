"""A learner of features and the backbone that made them, as one learner of pictures.

    features:     z = g(x), g frozen, computed once for each example
    adapting:     that of the learner, on z
    predictions:  those of the learner, for g of the queries

No method of its own: it asks the learner, whichever that is, and gives what it gives.
"""

import keras
import tensorflow as tf

from maml_tf import arguments
from maml_tf.backbones import networks
from maml_tf.learners.base.learner import Learner
from maml_tf.learners.base.reports import Before


@keras.saving.register_keras_serializable("maml_tf")
class WithBackbone(Learner):
    """A learner whose examples go through a frozen network before it adapts to them.

    It adapts, predicts, is evaluated, saved and exported as any learner, from what the backbone
    takes: raw pictures, or strings where it is a tokeniser. The backbone runs once for each
    example, however many inner steps there are, and is no part of what adapting gives: what a
    served `adapt` returns is as small as without it. `fit` goes on to train the learner, on task
    batches of pictures; on `maml_tf.backbones.features` of them the learner itself trains sooner.

    It has the losses and metrics of the learner. `compile` gives both others.

    Args:
        backbone: a built `keras.Model` from examples to the inputs of the learner's model, with
            whatever scales them. It is frozen (`trainable = False`).
        learner: a `maml_tf.Learner` of features; not copied.
        name: of this learner; that of `learner` by default.

    Raises:
        TypeError: `backbone` is no `keras.Model` or `learner` no `maml_tf.Learner`.
        ValueError: a backbone that is not built, or whose features the learner's model does not
            take.

    Example:
        >>> layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D()]
        >>> backbone = keras.Sequential([keras.Input((9, 9, 3)), *layers])
        >>> head = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> learner = maml_tf.backbones.WithBackbone(backbone, maml_tf.Prototypical(head))
        >>> pictures = np.random.default_rng(0).uniform(size=(4, 9, 9, 3)).astype("float32")
        >>> mine = learner.adapt(pictures, np.array([0, 0, 1, 1]))
        >>> mine.predict(pictures[:3], verbose=0).shape
        (3, 2)
    """

    wraps = "backbone"

    def __init__(self, backbone, learner, *, name=None):
        networks.check(backbone)
        if not isinstance(learner, Learner) or isinstance(learner, WithBackbone):
            raise TypeError(
                "Expected `learner` to be a `maml_tf.Learner` of features, such as "
                "`maml_tf.Prototypical(network)`. Received: "
                f"{arguments.received('learner', learner)}. Give one that was trained on "
                "`maml_tf.backbones.features`."
            )
        _check_fits(backbone, learner)
        super().__init__(
            learner.model,
            batch_norm=learner.batch_norm,
            task_map=learner.task_map,
            parallel_tasks=learner.parallel_tasks,
            name=name or learner.name,
        )
        backbone.trainable = False
        self.backbone, self.learner = backbone, learner
        # What a class says of itself, this one says as the learner does.
        for asked in ("inner_steps", "needs_loss", "labels_are_classes", "first_order"):
            setattr(self, asked, getattr(learner, asked))
        if learner.compiled:
            self._compile_as(learner)

    def compile(self, optimizer="rmsprop", loss=None, **settings):
        """See `maml_tf.Learner`: the learner gets the losses, and keeps optimizer and metrics."""
        own, before = keras.optimizers.SGD(), {}
        if self.learner.compiled:
            own, before = self.learner.optimizer, self.learner._compile_config.config
        chosen = {k: v for k, v in settings.items() if k in ("inner_loss", "loss_weights")}
        kept = {k: before.get(k) for k in ("metrics", "weighted_metrics")}
        self.learner.compile(own, loss, **chosen, **kept)
        super().compile(optimizer, loss, **settings)

    def _compile_as(self, learner):
        """Takes over what the learner was compiled with; the optimizer begins anew."""
        config = Before.compile_arguments(learner._compile_config.config)
        optimizer = type(learner.optimizer).from_config(learner.optimizer.get_config())
        super().compile(optimizer, inner_loss=learner._inner_loss_config, **config)
        self._support_y_spec = learner._support_y_spec

    @property
    def layers(self):
        """The learner, then the backbone: Keras saves and loads them in this order.

        The network is a part of the learner, which has to be loaded before it: it says which
        low-rank factors the network has.
        """
        return [self.learner, self.backbone]

    def features(self, x):
        """What the backbone makes of examples `[n, ...]`, in prediction mode: `[n, ...]`."""
        return tf.stop_gradient(self.backbone(x, training=False))

    # One task; see `Learner`.

    def adapt_task(self, support, *, steps, mode):
        """See `Learner`: what the learner makes of the features."""
        return self.learner.adapt_task(self._seen(support), steps=steps, mode=mode)

    def predict_adapted(self, adapted, query_x, *, mode, then):
        """See `Learner`."""
        z = self.features(query_x)
        return self.learner.predict_adapted(adapted, z, mode=mode, then=then)

    def adapt_path(self, support, steps, observe):
        """See `Learner`."""
        return self.learner.adapt_path(self._seen(support), steps, observe)

    def task_gradient(self, task):
        """See `Learner`: of a learner with a gradient of its own, that one."""
        if type(self.learner).task_gradient is Learner.task_gradient:
            return super().task_gradient(task)
        inputs = task["inputs"]
        seen = {name: self.features(inputs[name]) for name in ("support_x", "query_x")}
        gradients, answers = self.learner.task_gradient({**task, "inputs": {**inputs, **seen}})
        by_variable = {
            id(v): g for v, g in zip(self.learner.trainable_variables, gradients, strict=True)
        }
        return [by_variable[id(v)] for v in self.trainable_variables], answers

    def unadapted(self):
        """See `Learner`."""
        return self.learner.unadapted()

    def mode_of_adapt(self):
        """See `Learner`."""
        return self.learner.mode_of_adapt()

    def example_spec(self):
        """See `Learner`: the inputs of the backbone."""
        return self.backbone.inputs[0]

    def output_spec(self, x):
        """See `Learner`: that of the learner for features of examples."""
        return self.learner.output_spec(self.backbone.compute_output_spec(x))

    def _seen(self, support):
        return support._replace(x=self.features(support.x))


def _check_fits(backbone, learner):
    """Refuses features that the learner's model does not take."""
    wanted = learner.example_spec()
    if wanted is None or keras.tree.is_nested(wanted):
        return
    shape, _ = networks.output_of(backbone)
    expected = tuple(wanted.shape[1:])
    if len(shape) == len(expected) and all(
        w in (None, s) for w, s in zip(expected, shape, strict=True)
    ):
        return
    raise ValueError(
        f"Expected a backbone that gives features of shape {expected}, which the model "
        f"{learner.model.name!r} of the learner takes. Received: {backbone.name!r} with features "
        f"of shape {shape}. Give the backbone whose features the learner was trained on."
    )
