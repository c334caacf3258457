"""A policy network as a TF-Agents `TFPolicy`, for its drivers, metrics and `PolicySaver`."""

from maml_tf.rl import compatibility, policies
from maml_tf.rl._tf_agents import policy_step, tf_policy


class KerasPolicy(tf_policy.TFPolicy):
    """TF-Agents' view of a policy, such as the one that `MetaPolicy.adapt` gives.

    Args:
        policy: as described in `maml_tf.rl.policies`.
        environment: whose specs it has; a `PyEnvironment` must be wrapped in `TFPyEnvironment`.

    Raises:
        ValueError: a policy that does not fit the environment's observations or actions.

    Example:
        >>> from maml_tf import rl
        >>> environment = rl.environments.Navigation2D()
        >>> policy = KerasPolicy(rl.policies.gaussian(2, 2), environment)
        >>> policy.action(environment.reset()).action.shape
        TensorShape([1, 2])
    """

    def __init__(self, policy, environment):
        compatibility.check(policy, environment)
        # Clipped actions would get the log-probabilities of others.
        super().__init__(environment.time_step_spec(), environment.action_spec(), clip=False)
        # TF-Agents saves what is tracked: TensorFlow's variables inside of Keras'.
        self._tracked = [v.value for v in policy.variables]
        self._policy = policy

    def _variables(self):
        return self._tracked

    def _distribution(self, time_step, policy_state):
        weights = [v.value for v in self._policy.trainable_variables]
        outputs = policies.apply(self._policy, weights, time_step.observation)
        return policy_step.PolicyStep(policies.distribution(outputs), policy_state)
