"""Speed of second-order MAML in JAX on the CPU, written as one would write it for speed.

``python tests/benchmarks/peers_jax.py --workload omniglot5 --variant map,devices`` prints one
JSON line for each variant. Variants of every workload:

* ``vmap``: all tasks at once. Sine: 100 meta-steps in one jitted ``lax.scan`` over data made
  beforehand. Images: convolutions written as patches times matrix.
* ``map``: task after task in a ``lax.scan`` which adds up losses and gradients; the derivative
  is taken inside. (``lax.map`` takes as long, and more memory, since it stacks the gradients.)
  Convolutions as patches times matrix.
* ``mapN``, N a divisor of the number of tasks: N tasks at once by ``vmap``, group after group.

Of the workloads with images:

* ``vmap_conv``, ``map_conv``, ``parts_conv``: the same with ``lax.conv_general_dilated``.
* ``devices``: XLA is told that the CPU is ``--threads`` devices; ``shard_map`` gives each its
  share of the tasks, which it goes through as ``map`` does, and the gradients are summed.
* ``parts``: as many calls as ``--threads``, each with its share of the tasks as in ``map``, which
  JAX dispatches asynchronously and XLA runs at the same time; then one call for the update.

Everything is jitted, the state is donated, and a call is over when its results are ready. XLA is
given ``--threads`` threads (default: one a core). For the peak of memory, which includes
compiling, run one variant in a process.
"""

import functools
import os
import re
import time

import numpy as np
from inputs import (
    NORM_EPSILON,
    OUTER_LR,
    SAME_PADDING,
    STEPS_AHEAD,
    WORKLOADS,
    load_inputs,
    measure,
    peak_mb,
    peer_arguments,
    write_line,
)

VARIANTS = {
    "sine": r"vmap|map\d*",
    "images": r"vmap|vmap_conv|map\d*|map_conv|devices|parts|parts_conv",
}
BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8


def configure(threads, device):
    """Sets the device and the number of threads, before JAX starts, and imports JAX.

    Returns:
        The number of threads.
    """
    global jax, jnp, lax
    threads = threads or len(os.sched_getaffinity(0))
    os.environ["NPROC"] = str(threads)  # the size of XLA's pool of threads
    os.environ["JAX_PLATFORMS"] = {"cpu": "cpu", "gpu": "cuda"}[device]
    import jax
    import jax.numpy as jnp
    from jax import lax

    if device == "cpu":
        jax.config.update("jax_num_cpu_devices", threads)
    return threads


def mean_squared_error(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets))


def cross_entropy(logits, labels):
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)


def dense_network(weights, x):
    x = jax.nn.relu(x @ weights[0] + weights[1])
    x = jax.nn.relu(x @ weights[2] + weights[3])
    return x @ weights[4] + weights[5]


def convolve(x, kernel, padding, stride):
    """3x3 convolution."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), (padding, padding), dimension_numbers=numbers
    )


def convolve_patches(x, kernel, padding, stride):
    """The same as patches times matrix."""
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    span = (x.shape[1] - 3) // stride * stride + 1
    patches = [
        x[:, i : i + span : stride, j : j + span : stride] for i in range(3) for j in range(3)
    ]
    patches = jnp.concatenate(patches, axis=-1)
    rows = patches.reshape(-1, patches.shape[-1])
    return (rows @ kernel.reshape(rows.shape[1], -1)).reshape(*patches.shape[:3], -1)


def normalize(x):
    """Batch normalisation."""
    x = x - x.mean((0, 1, 2))
    return x * lax.rsqrt(jnp.square(x).mean((0, 1, 2)) + NORM_EPSILON)


def convolutional_network(weights, x, convolution):
    for block, padding in enumerate(SAME_PADDING):
        kernel, bias, beta = weights[3 * block : 3 * block + 3]
        x = jax.nn.relu(normalize(convolution(x, kernel, padding, 2) + bias) + beta)
    return x.mean((1, 2)) @ weights[12] + weights[13]


def max_pool(x):
    """2x2 max-pooling: ``lax.reduce_window`` makes a step a third slower."""
    images, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(images, height, 2, width, 2, channels).max((2, 4))


def max_pool_network(weights, x, convolution):
    for block in range(4):
        kernel, bias, beta = weights[3 * block : 3 * block + 3]
        x = normalize(convolution(x, kernel, (1, 1), 1) + bias)
        x = max_pool(jax.nn.relu(x + beta))
    return x.reshape(len(x), -1) @ weights[12] + weights[13]


def make_task_loss(workload, convolution):
    """Returns the function of weights and one task: the query loss after the inner steps."""
    if workload.ways:
        network = max_pool_network if workload.max_pool else convolutional_network
        loss, network = cross_entropy, functools.partial(network, convolution=convolution)
    else:
        loss, network = mean_squared_error, dense_network

    def task_loss(weights, task):
        support_x, support_y, query_x, query_y = task
        for _ in range(workload.inner_steps):
            gradients = jax.grad(lambda w: loss(network(w, support_x), support_y))(weights)
            weights = [w - workload.inner_lr * g for w, g in zip(weights, gradients, strict=True)]
        return loss(network(weights, query_x), query_y)

    return task_loss


def sum_over_tasks(task_loss, group=1):
    """Returns the function of weights and tasks: sums of loss and gradients, group by group."""

    def group_loss(weights, tasks):
        return jax.vmap(task_loss, in_axes=(None, 0))(weights, tasks).sum()

    def total(weights, tasks):
        function = jax.value_and_grad(task_loss if group == 1 else group_loss)
        if group > 1:
            tasks = jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), tasks)

        def add(sums, task):
            return jax.tree.map(jnp.add, sums, function(weights, task)), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, weights))
        return lax.scan(add, zeros, tasks)[0]

    return total


def choose_convolution(variant):
    return convolve if variant.endswith("_conv") else convolve_patches


def make_gradient(workload, variant, threads):
    """Returns the function of weights and a meta-batch: mean loss and its gradients."""
    task_loss = make_task_loss(workload, choose_convolution(variant))
    if variant.startswith("vmap"):

        def mean_loss(weights, tasks):
            return jax.vmap(task_loss, in_axes=(None, 0))(weights, tasks).mean()

        return jax.value_and_grad(mean_loss)

    total = sum_over_tasks(task_loss, int(re.search(r"\d*$", variant)[0] or 1))
    if variant == "devices":
        spec = jax.sharding.PartitionSpec
        total = jax.shard_map(
            lambda weights, tasks, local=total: lax.psum(local(weights, tasks), "tasks"),
            mesh=jax.make_mesh((threads,), ("tasks",)),
            in_specs=(spec(), spec("tasks")),
            out_specs=spec(),
            check_vma=False,
        )
    return lambda weights, tasks: mean(total(weights, tasks), workload.tasks)


def mean(sums, tasks):
    return jax.tree.map(lambda x: x / tasks, sums)


def first_state(weights):
    """Weights, Adam's two moments and its step."""
    weights = [jnp.array(weight) for weight in weights]
    moments = [[jnp.zeros_like(weight) for weight in weights] for _ in range(2)]
    return weights, *moments, jnp.zeros(())


def adam(state, gradients):
    weights, first, second, step = state
    step = step + 1
    first = [BETA_1 * m + (1 - BETA_1) * g for m, g in zip(first, gradients, strict=True)]
    second = [BETA_2 * v + (1 - BETA_2) * g * g for v, g in zip(second, gradients, strict=True)]
    rate = OUTER_LR / (1 - BETA_1**step)
    correction = 1 - BETA_2**step
    weights = [
        w - rate * m / (jnp.sqrt(v / correction) + ADAM_EPSILON)
        for w, m, v in zip(weights, first, second, strict=True)
    ]
    return weights, first, second, step


def make_step(workload, variant, threads):
    """Returns the function of state and a meta-batch: new state and loss."""
    if variant.startswith("parts"):
        task_loss = make_task_loss(workload, choose_convolution(variant))
        part = jax.jit(sum_over_tasks(task_loss))

        @functools.partial(jax.jit, donate_argnums=0)
        def update(state, results):
            sums = jax.tree.map(lambda *x: sum(x), *results)
            loss, gradients = mean(sums, workload.tasks)
            return adam(state, gradients), loss

        return lambda state, shares: update(state, [part(state[0], share) for share in shares])

    gradient = make_gradient(workload, variant, threads)

    def step(state, tasks):
        loss, gradients = gradient(state[0], tasks)
        return adam(state, gradients), loss

    return step


def make_call(workload, variant, threads, weights, data, ahead=1):
    """Prepares one variant.

    Returns:
        The function that makes `ahead` or, for sine, 100 meta-steps, their number, and the first
        meta-step's loss and norm of its gradient.
    """
    step = make_step(workload, variant, threads)
    state = first_state(weights)
    if workload.batches > 1:
        one, data, steps = jax.jit(step), [jnp.asarray(x) for x in data], workload.batches
        first_data = [x[0] for x in data]
        step = jax.jit(lambda state, data: lax.scan(one, state, data), donate_argnums=0)
    elif variant.startswith("parts"):
        shares = [np.array_split(x, threads) for x in data]
        data = [[jnp.asarray(x) for x in share] for share in zip(*shares, strict=True)]
        one, first_data, steps = step, data, 1
    else:
        data = [jnp.asarray(x) for x in data]
        if variant == "devices":
            mesh, spec = jax.make_mesh((threads,), ("tasks",)), jax.sharding.PartitionSpec
            data = jax.device_put(data, jax.sharding.NamedSharding(mesh, spec("tasks")))
            state = jax.device_put(state, jax.sharding.NamedSharding(mesh, spec()))
        one = step = jax.jit(step, donate_argnums=0)
        first_data, steps = data, ahead

    after, loss = one(state, first_data)
    # Adam's first moment is then a multiple of the gradient.
    gradients = [np.asarray(m, np.float64) / (1 - BETA_1) for m in after[1]]
    norm = float(np.sqrt(sum(np.square(g).sum() for g in gradients)))
    state = after

    def call():
        nonlocal state
        for _ in range(steps if workload.batches == 1 else 1):
            state, losses = step(state, data)
        jax.block_until_ready((state, losses))

    return call, steps, float(loss), norm


def main():
    arguments = peer_arguments(__doc__)
    threads = configure(arguments.threads, arguments.device)
    ahead = STEPS_AHEAD if arguments.device == "gpu" else 1
    workload = WORKLOADS[arguments.workload]
    weights, data = load_inputs(arguments.workload, arguments.inputs)
    allowed = VARIANTS["images" if workload.ways else "sine"]
    for variant in arguments.variant.split(","):
        if not re.fullmatch(allowed, variant):
            raise SystemExit(f"Variants of {arguments.workload}: {allowed}; got {variant}.")
        start = time.perf_counter()
        call, steps, loss, norm = make_call(workload, variant, threads, weights, data, ahead)
        call()
        first = time.perf_counter() - start
        times = measure(call, arguments.seconds, arguments.min_steps, steps)
        write_line(
            framework="jax",
            variant=variant,
            workload=arguments.workload,
            threads=threads,
            **times,
            peak_mb=round(peak_mb(), 1),
            loss=loss,
            gradient_norm=norm,
            first_call_s=round(first, 2),
            version=jax.__version__,
        )


if __name__ == "__main__":
    main()
