"""Keras' training loop over task batches: what `fit`, `evaluate` and `predict` do for a learner.

What is given is checked before work begins, and Keras' loop calls functions that are made for what
batches look like. What these do with one batch is `maml_tf.learners.base.batch_steps`.
"""

import inspect

import tensorflow as tf

from maml_tf.learners.base import batch_checks, checks, labels
from maml_tf.learners.base.batch_steps import BatchSteps
from maml_tf.learners.base.reports import non_finite_error
from maml_tf.learners.base.train_function import (
    by_rank,
    in_blocks,
    make_compiled_loop,
    make_variables,
    one_batch,
)


class Trainer(BatchSteps):
    """What `maml_tf.Learner` is to Keras' training loop."""

    # Whether adapting descends a loss, so that nothing can be predicted before `compile`.
    needs_loss = True
    # Whether `fit` reads several batches at a time just now.
    reads_blocks = False

    def make_train_function(self, force=False):
        """Builds what `fit` calls: several steps in one call, one XLA program with XLA."""
        if self.train_function is not None and not force:
            return
        ordinary = compiled = self._by_rank("train_function", super().make_train_function)
        several = self._compiles_several()
        if several:
            compiled = make_compiled_loop(self)

        def checked(iterator):
            # `train_on_batch` and arrays of unknown length come as Python generators.
            in_graph = isinstance(iterator, tf.data.Iterator)
            if in_graph and several:
                spec = iterator.element_spec
                spec = one_batch(spec) if self.reads_blocks else spec
                make_variables(self, spec, training=True)
            with labels.explained():
                logs = (compiled if in_graph else ordinary)(iterator)
            if int(self._bad_step) >= 0:
                step = int(self._bad_step)
                self._bad_step.assign(-1)
                raise non_finite_error(step, self)
            return logs

        self.train_function = checked

    def _compiles_several(self):
        """Whether one XLA program runs several steps."""
        several = self.steps_per_execution > 1 and self.jit_compile and not self.run_eagerly
        return several and self._distribute_strategy is None

    def make_test_function(self, force=False):
        """Builds what `evaluate` calls."""
        if self.test_function is None or force:
            function = self._by_rank("test_function", super().make_test_function)
            self.test_function = labels.explaining(function)

    def make_predict_function(self, force=False):
        """Builds what `predict` calls."""
        if self.predict_function is None or force:
            function = self._by_rank("predict_function", super().make_predict_function)
            self.predict_function = labels.explaining(function)

    def _by_rank(self, name, keras_makes):
        """What Keras makes as the attribute `name`, anew for batches of other ranks."""

        def make(spec):
            if name != "predict_function":
                make_variables(self, spec, training=name == "train_function")
            ours = getattr(self, name)
            keras_makes(force=True)
            made = getattr(self, name)
            setattr(self, name, ours)
            return made

        return by_rank(make)

    def fit(self, x=None, y=None, *args, class_weight=None, **kwargs):
        """`keras.Model.fit` over task batches; the first one is checked before training.

        `class_weight` weighs the queries of the outer loss; `sample_weight` `[T, Q]` does so, too,
        and `[T]` weighs tasks.
        """
        self.require_compiled("fit")
        checks.check_loss(self, "fit")
        given = inspect.signature(super().fit).bind(x, y, *args, **kwargs).arguments
        batch_checks.check_data(self, x, y, given.get("sample_weight"))
        batch_checks.check_validation(self, given.get("validation_data"))
        self._weigh_classes(class_weight, given.get("sample_weight"))
        if isinstance(x, tf.data.Dataset) and "shuffle" not in given:
            # Its order is its own; Keras' default would only warn of that.
            kwargs["shuffle"] = False
        several = self._compiles_several()
        blocks = in_blocks(self, x, given.get("steps_per_epoch")) if several else None
        self.reads_blocks = blocks is not None
        try:
            return super().fit(x if blocks is None else blocks, y, *args, **kwargs)
        finally:
            self.reads_blocks = False

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """`keras.Model.train_on_batch` of one task batch; weights as in `fit`."""
        batch_checks.check_one_batch(x, y, sample_weight)
        self._weigh_classes(class_weight, sample_weight)
        return super().train_on_batch(x, y, sample_weight=sample_weight, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """`keras.Model.test_on_batch` of one task batch."""
        batch_checks.check_one_batch(x, y, sample_weight)
        return super().test_on_batch(x, y, sample_weight=sample_weight, return_dict=return_dict)

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict` over task batches without query labels."""
        batch_checks.check_queries(x)
        return super().predict(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """`keras.Model.predict_on_batch` of one task batch without query labels."""
        batch_checks.check_queries(x)
        return super().predict_on_batch(x)

    def _weigh_classes(self, class_weight, sample_weight):
        checks.check_class_weight(class_weight, sample_weight)
        if class_weight != self._class_weight:
            # They are constants of the compiled step.
            self._class_weight, self.train_function = class_weight, None

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate` over task batches."""
        self.require_compiled("evaluate")
        checks.check_loss(self, "evaluate")
        if not kwargs.get("_use_cached_eval_dataset"):
            own = {k: v for k, v in kwargs.items() if not k.startswith("_")}
            given = inspect.signature(super().evaluate).bind(x, y, *args, **own).arguments
            batch_checks.check_data(self, x, y, given.get("sample_weight"))
        return super().evaluate(x, y, *args, **kwargs)

    def require_compiled(self, method):
        """Raises a ValueError where `method` needs a loss and `compile` gave none."""
        if not self.needs_loss:
            return
        if not self.compiled or (self.loss is None and self._inner_loss is None):
            raise ValueError(
                f"`{method}` adapts by descending a loss, and this learner has none yet. Call "
                "`learner.compile(optimizer=..., loss=...)` first."
            )
