"""A trained meta-policy as a SavedModel that acts and adapts inside the graph.

The exported graph holds the meta-learned weights as plain variables, the policy, the advantages and
one inner step. It needs neither Keras, TF-Agents nor this package to run: TensorFlow, its C API or
TensorFlow Serving do.
"""

import os
import pathlib
from typing import Any

import tensorflow as tf

from maml_tf import arguments
from maml_tf.learners.base import specs
from maml_tf.rl import checks
from maml_tf.rl.meta_policy import MetaPolicy
from maml_tf.rl.signatures import Signatures
from maml_tf.serving import card as card_file
from maml_tf.serving import folder, versions, warmup

_NOTE = """To adapt to a task, draw rollouts by `sample` and give them to `adapt` with the
`weights` that drew them; go on with the weights it gives, and at last act by `act_with`. `weights`
of size 0 are the meta-learned ones; `step` counts the requests to `adapt` from 0."""


def export(
    learner: MetaPolicy,
    base_path: str | os.PathLike[str],
    version: int | None = None,
    *,
    inner_optimizer: Any = None,
    warm_up: bool | None = None,
    card: dict[str, Any] | None = None,
    observation_spec: Any = None,
) -> pathlib.Path:
    """Writes `base_path/<version>/`, the layout of TensorFlow Serving.

    Letters for shapes: n observations, O observation entries, A actions, N discrete actions,
    R rollouts of one task, H steps. n, R and H are free. The signatures are functions of what they
    are given alone:

    - `serving_default`, which is `act`: `observation` `[n, O]` to the policy's outputs at the
      meta-learned weights (`loc` and `log_scale` `[n, A]`, or `logits` `[n, N]`) and `action`, the
      most likely one: `[n, A]`, not clipped, or int32 `[n]`;
    - `act_with`: `weights` `[P]` and `observation` to the same at these weights;
    - `sample`: `weights`, `observation` and `seed` (int32 `[2]`) to the same, but `action` is
      drawn. The same seed draws the same: give each request one of its own;
    - `adapt`: one inner step. `weights`, rollouts that were drawn with them: `observation`
      `[R, H, O]`, before each action, `action` `[R, H, A]` or int32 `[R, H]`, as drawn, `reward`
      `[R, H]`, `mask` `[R, H]`, 1 up to the end of a rollout and 0 after it; and `step` (int32
      scalar), 0 for the first step. Where the learner's `bootstrap` is True, also
      `last_observation` `[R, O]`, after the last action, and `truncated` (bool `[R]`), whether a
      limit on the time ended the rollout. To `weights` `[P]` after the step.

    `weights` of size 0 are the meta-learned weights before the first step. The P numbers are those
    of the policy, then what the inner optimizer carries to the next step (nothing for `SGD`
    without momentum).

    Numbers that are not finite (where the mask is 0, too), rollouts whose parts differ in R or H,
    a mask that counts nothing, actions that are not there and weights of another number are errors
    that say so. Beside the model lie `card.json` and `README.md`.

    Args:
        learner: `maml_tf.rl.MetaPolicy`; it need not be compiled.
        base_path: directory of all versions; made where it does not exist.
        version: `int` of at least 0; by default one more than the largest one there, from 1.
        inner_optimizer: one of `maml_tf.inner_optimizers`; that of training by default. The
            paper's at test is `SGD([alpha, alpha / 2])`.
        warm_up: `bool`, whether to write a request for each signature that the server answers
            while it loads the model; by default where `tensorflow-serving-api` is installed.
        card: dict of what the model card should say beside what the learner knows, such as
            `{"environment": ..., "returns": ..., "command": ..., "commit": ...}`.
        observation_spec: `tf.TensorSpec` `[None, O]`; needed only where the policy does not tell
            (a subclassed one).

    Returns:
        `pathlib.Path` of what was written.

    Raises:
        FileExistsError: that version is there already.
        ImportError: `warm_up` is True and `tensorflow-serving-api` is not installed.
        TypeError: another kind of learner.
        ValueError: a version out of range, a policy that does not tell its observations, or whose
            observations are not vectors, a `card` that JSON cannot hold or that repeats what the
            export writes.

    Example:
        >>> from maml_tf import inner_optimizers, rl
        >>> learner = rl.MetaPolicy(rl.policies.gaussian(2, 2), inner_optimizers.SGD(0.5))
        >>> ask = tf.saved_model.load(str(rl.export(learner, "exported/navigation"))).signatures
        >>> weights, o, seed = tf.zeros([0]), tf.zeros([20, 2]), tf.constant([0, 1])
        >>> action = ask["sample"](weights=weights, observation=o, seed=seed)["action"]
        >>> weights = ask["adapt"](weights=weights, observation=o[:, None],
        ...                        action=action[:, None], reward=action[:, None, 0],
        ...                        mask=tf.ones([20, 1]), step=tf.constant(0))["weights"]
        >>> ask["act_with"](weights=weights, observation=o)["action"].shape
        TensorShape([20, 2])
    """
    if not isinstance(learner, MetaPolicy):
        raise TypeError(
            "Expected `learner` to be a `maml_tf.rl.MetaPolicy`. Received: "
            f"{arguments.received('learner', learner)}. Use `maml_tf.serving.export` for other "
            "learners."
        )
    path = versions.path_of(base_path, version)
    inner_optimizer = learner.inner_optimizer if inner_optimizer is None else inner_optimizer
    optimizer = checks.fixed_optimizer(inner_optimizer)
    spec = specs.x_spec(learner.policy) if observation_spec is None else observation_spec
    if not isinstance(spec, tf.TensorSpec) or len(spec.shape) != 2 or spec.shape[1] is None:
        raise ValueError(
            "Expected a policy of observations [batch, O], which the baseline of the advantages "
            f"is made for. Received: observation_spec={spec}. Give "
            "`observation_spec=tf.TensorSpec([None, O])`."
        )
    signatures = Signatures(learner, optimizer, spec)
    about = card_file.about(learner, learner.policy) | {
        "inner_optimizer": type(optimizer).__name__,
        **{f"inner_{key}": value for key, value in optimizer.get_config().items()},
        "inner_loss": learner.inner_loss,
        "inner_steps": learner.inner_steps,
        "discount": learner.discount,
        "gae_lambda": learner.gae_lambda,
        "bootstrap": learner.bootstrap,
    }
    card_file.check(card, about)
    warm = warm_up or (warm_up is None and warmup.is_possible())
    folder.write(
        path,
        signatures.module,
        signatures.all(),
        signatures.examples() if warm else None,
        (card or {}) | about,
        signature="act",
        output="action",
        note=_NOTE,
    )
    return path
