"""Speed of second-order MAML in PyTorch on the CPU, written as one would write it for speed.

``python tests/benchmarks/peers_torch.py --workload omniglot5 --variant loop,vmap`` prints one
JSON line for each variant:

* ``loop``: task after task with ``torch.autograd.grad(create_graph=True)``; the gradients are
  added up task by task, so that memory does not grow. Convolutions in ``channels_last``.
* ``vmap``: ``torch.func.vmap`` and ``grad`` over all tasks at once (convolutions become grouped
  ones); ``vmapN``: N tasks at once, group after group.
* ``compile``: ``torch.compile`` of the function of ``vmap``. It needs a C++ compiler at run time
  and is left out, with a line that says so, where there is none; compiling takes minutes for
  convolutions, and has not been tried with the five steps of omniglot20.
* ``bmm`` (sine): autograd through batched matrix products written by hand.
* ``threads``: ``loop`` in as many Python threads as ``--threads``, each with its share of the
  tasks and one thread inside an operation; ``threads_vmap``: ``vmap`` of each share.
* ``processes``: the same with processes, weights and gradients in shared memory;
  ``processes_vmap``: ``vmap`` of each share.

``--threads`` is otherwise the number of threads inside an operation (default: as PyTorch
chooses). Adam is the fused one. The peak of memory of ``processes`` is the sum over the
processes, that of the others is the highest so far: run one variant in a process for it.
"""

import concurrent.futures
import os
import re
import shutil
import time

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
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
from torch.func import grad, grad_and_value, vmap

VARIANTS = {
    "sine": r"loop|vmap\d*|compile|bmm|(threads|processes)(_vmap)?",
    "images": r"loop|vmap\d*|compile|(threads|processes)(_vmap)?",
}


def dense_network(weights, x):
    x = torch.relu(torch.addmm(weights[1], x, weights[0]))
    x = torch.relu(torch.addmm(weights[3], x, weights[2]))
    return torch.addmm(weights[5], x, weights[4])


def normalize_native(x):
    """Batch normalisation by PyTorch's operation, whose second derivative is the fastest here."""
    return F.batch_norm(x, None, None, training=True, eps=NORM_EPSILON)


def normalize_written(x):
    """Batch normalisation written out: better under ``vmap``."""
    x = x - x.mean((0, 2, 3), keepdim=True)
    variance = (x * x).mean((0, 2, 3), keepdim=True)
    return x * torch.rsqrt(variance + NORM_EPSILON)


def convolutional_network(weights, x, normalize):
    for block, padding in enumerate(SAME_PADDING):
        kernel, bias, beta = weights[3 * block : 3 * block + 3]
        if padding[0] == padding[1]:
            x = F.conv2d(x, kernel, bias, stride=2, padding=padding[0])
        else:
            x = F.conv2d(F.pad(x, (*padding, *padding)), kernel, bias, stride=2)
        x = torch.relu(normalize(x) + beta[:, None, None])
    return torch.addmm(weights[13], x.mean((2, 3)), weights[12])


def max_pool_network(weights, x, normalize):
    for block in range(4):
        kernel, bias, beta = weights[3 * block : 3 * block + 3]
        x = normalize(F.conv2d(x, kernel, bias, padding=1))
        # Beta and ReLU change nothing in which one is the largest: after it they are a quarter of
        # the work, and a step takes a tenth less.
        x = torch.relu(F.max_pool2d(x, 2) + beta[:, None, None])
    return torch.addmm(weights[13], x.permute(0, 2, 3, 1).flatten(1), weights[12])


def network_and_loss(workload, functional):
    """Returns the network and the loss: for ``vmap`` where ``functional``, else for autograd."""
    if not workload.ways:
        return dense_network, F.mse_loss
    normalize = normalize_written if functional else normalize_native
    network = max_pool_network if workload.max_pool else convolutional_network
    return lambda w, x: network(w, x, normalize), F.cross_entropy


def to_tensors(workload, weights, data, channels_last):
    """Turns arrays into tensors in PyTorch's layout.

    Returns:
        The weights and the list of meta-batches, each of four tensors.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = []
    for weight in weights:
        tensor = torch.tensor(weight)
        if tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1).contiguous(memory_format=layout)
        tensors.append(tensor)
    data = [torch.tensor(x) for x in data]
    if workload.batches > 1:
        return tensors, list(zip(*data, strict=True))
    support_x, support_y, query_x, query_y = data
    # With one channel both layouts are the same in memory.
    images = [x.permute(0, 1, 4, 2, 3).contiguous() for x in (support_x, query_x)]
    return tensors, [(images[0], support_y.long(), images[1], query_y.long())]


def split_tasks(batch, channels_last):
    """Splits a meta-batch into tasks."""
    tasks = list(zip(*batch, strict=True))
    if channels_last:
        tasks = [
            tuple(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in t)
            for t in tasks
        ]
    return tasks


class Loop:
    """Sums of loss and gradients over tasks, one after the other."""

    channels_last = True

    def __init__(self, workload, batches):
        self.workload = workload
        self.network, self.loss = network_and_loss(workload, functional=False)
        self.batches = [split_tasks(batch, bool(workload.ways)) for batch in batches]

    def task(self, weights, support_x, support_y, query_x, query_y):
        adapted = weights
        for _ in range(self.workload.inner_steps):
            loss = self.loss(self.network(adapted, support_x), support_y)
            gradients = torch.autograd.grad(loss, adapted, create_graph=True)
            adapted = [
                torch.sub(w, g, alpha=self.workload.inner_lr)
                for w, g in zip(adapted, gradients, strict=True)
            ]
        loss = self.loss(self.network(adapted, query_x), query_y)
        return loss.detach(), torch.autograd.grad(loss, weights)

    def __call__(self, weights, index):
        total = None
        for task in self.batches[index]:
            loss, gradients = self.task(weights, *task)
            results = [loss, *gradients]
            if total is None:
                total = results
            else:
                torch._foreach_add_(total, results)
        return total


class Vmap:
    """Sums of loss and gradients over tasks, all of them or ``group`` of them at once."""

    channels_last = False

    def __init__(self, workload, batches, group=None, compiled=False):
        network, loss = network_and_loss(workload, functional=True)

        def task(weights, support_x, support_y, query_x, query_y):
            for _ in range(workload.inner_steps):
                gradients = grad(lambda w: loss(network(w, support_x), support_y))(weights)
                weights = [
                    torch.sub(w, g, alpha=workload.inner_lr)
                    for w, g in zip(weights, gradients, strict=True)
                ]
            return loss(network(weights, query_x), query_y)

        def group_loss(weights, *tasks):
            return vmap(task, in_dims=(None, 0, 0, 0, 0))(weights, *tasks).sum()

        self.function = grad_and_value(group_loss)
        if compiled:
            self.function = torch.compile(self.function, fullgraph=True)
        self.batches = [
            list(zip(*(x.split(group or len(x)) for x in batch), strict=True)) for batch in batches
        ]

    def __call__(self, weights, index):
        weights = [weight.detach() for weight in weights]
        total = None
        for tasks in self.batches[index]:
            gradients, loss = self.function(weights, *tasks)
            results = [loss, *gradients]
            if total is None:
                total = results
            else:
                torch._foreach_add_(total, results)
        return total


class Bmm:
    """Sums of loss and gradients over tasks of the sine workload, by batched products."""

    channels_last = False

    def __init__(self, workload, batches):
        self.workload = workload
        self.batches = batches

    @staticmethod
    def network(weights, x):
        x = torch.relu(torch.addcmul(weights[1], x, weights[0]))  # one column: no product needed
        x = torch.relu(torch.baddbmm(weights[3], x, weights[2]))
        return torch.baddbmm(weights[5], x, weights[4])

    def __call__(self, weights, index):
        support_x, support_y, query_x, query_y = self.batches[index]
        tasks = self.workload.tasks
        adapted = [w.expand(tasks, *w.shape) for w in weights]
        adapted = [w if w.ndim == 3 else w[:, None] for w in adapted]
        for _ in range(self.workload.inner_steps):
            # Tasks do not mix: the sum over tasks of their means has every task's gradient.
            loss = F.mse_loss(self.network(adapted, support_x), support_y) * tasks
            gradients = torch.autograd.grad(loss, adapted, create_graph=True)
            adapted = [
                torch.sub(w, g, alpha=self.workload.inner_lr)
                for w, g in zip(adapted, gradients, strict=True)
            ]
        loss = F.mse_loss(self.network(adapted, query_x), query_y) * tasks
        return [loss.detach(), *torch.autograd.grad(loss, weights)]


def share(batches, number, of):
    """Returns part ``number`` of the tasks of every meta-batch."""
    return [tuple(x.tensor_split(of)[number] for x in batch) for batch in batches]


class Threads:
    """Sums of loss and gradients over tasks, shared out over Python threads."""

    def __init__(self, kind, workload, batches, number):
        self.workers = [kind(workload, share(batches, i, number)) for i in range(number)]
        self.pool = concurrent.futures.ThreadPoolExecutor(number - 1) if number > 1 else None

    def __call__(self, weights, index):
        others = [self.pool.submit(worker, weights, index) for worker in self.workers[1:]]
        total = self.workers[0](weights, index)
        for other in others:
            torch._foreach_add_(total, other.result())
        return total

    def close(self):
        if self.pool:
            self.pool.shutdown()


def work(kind, workload, weights, results, batches, command, start, done, pipe):
    """Runs in a process of its own: fills ``results`` each time ``start`` is passed."""
    torch.set_num_threads(1)
    weights = [weight.detach().requires_grad_() for weight in weights]
    worker = kind(workload, batches)
    while True:
        start.wait()
        index = int(command)
        if index < 0:
            break
        for result, value in zip(results, worker(weights, index), strict=True):
            result.copy_(value)
        done.wait()
    pipe.send(peak_mb())


class Processes:
    """Sums of loss and gradients over tasks, shared out over processes, this one included."""

    def __init__(self, kind, workload, batches, number, weights):
        context = torch.multiprocessing.get_context("spawn")
        self.worker = kind(workload, share(batches, 0, number))
        self.command = torch.zeros((), dtype=torch.int64).share_memory_()
        self.start, self.done = context.Barrier(number), context.Barrier(number)
        self.results, self.workers, self.pipes = [], [], []
        for weight in weights:
            weight.detach().share_memory_()
        for i in range(1, number):
            results = [torch.zeros(()).share_memory_()]
            results += [torch.zeros_like(weight).share_memory_() for weight in weights]
            receive, send = context.Pipe(duplex=False)
            arguments = (kind, workload, [w.detach() for w in weights], results)
            arguments += (share(batches, i, number), self.command, self.start, self.done, send)
            worker = context.Process(target=work, args=arguments, daemon=True)
            worker.start()
            self.results.append(results)
            self.workers.append(worker)
            self.pipes.append(receive)

    def __call__(self, weights, index):
        self.command.fill_(index)
        self.start.wait()
        total = self.worker(weights, index)
        self.done.wait()
        for results in self.results:
            torch._foreach_add_(total, results)
        return total

    def close(self):
        """Ends the other processes and returns the sum of their peaks of memory."""
        self.command.fill_(-1)
        self.start.wait()
        peak = sum(pipe.recv() for pipe in self.pipes)
        for worker in self.workers:
            worker.join()
        return peak


def make_gradient(workload, variant, weights, data, threads):
    """Returns leaf weights and the function of them and a meta-batch's index."""
    name, _, inner = variant.partition("_")
    kind = Vmap if inner or name.startswith(("vmap", "compile")) else Bmm if name == "bmm" else Loop
    channels_last = kind.channels_last and bool(workload.ways)
    weights, batches = to_tensors(workload, weights, data, channels_last)
    if name == "threads":
        torch.set_num_threads(1)
        function = Threads(kind, workload, batches, threads)
    elif name == "processes":
        torch.set_num_threads(1)
        function = Processes(kind, workload, batches, threads, weights)
    else:
        torch.set_num_threads(threads)
        if kind is Vmap:
            group = int(re.search(r"\d*$", name)[0] or 0)
            function = Vmap(workload, batches, group or None, compiled=name == "compile")
        else:
            function = kind(workload, batches)
    return [weight.requires_grad_() for weight in weights], function


def run(workload, variant, weights, data, threads, seconds, min_steps):
    """Runs one variant and returns its line's values."""
    start = time.perf_counter()
    weights, function = make_gradient(workload, variant, weights, data, threads)
    optimizer = torch.optim.Adam(weights, lr=OUTER_LR, fused=True)
    number = 0

    def step():
        nonlocal number
        total = function(weights, number % workload.batches)
        number += 1
        torch._foreach_div_(total, float(workload.tasks))
        loss, *gradients = total
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()
        return loss

    try:
        first_loss = step()
        loss_device, loss = first_loss.device.type, float(first_loss)
        first = time.perf_counter() - start
        norm = float(np.sqrt(sum(float(w.grad.double().square().sum()) for w in weights)))
        ahead = 1 if loss_device == "cpu" else STEPS_AHEAD
        times = measure(lambda: steps_until_done(step, ahead), seconds, min_steps, ahead)
    finally:
        close = getattr(function, "close", None)
        others = (close() if close else None) or 0.0
    return dict(
        **times,
        peak_mb=round(peak_mb() + others, 1),
        loss=loss,
        gradient_norm=norm,
        first_call_s=round(first, 2),
    )


def steps_until_done(step, number):
    """So many meta-steps, and on a GPU the wait for them."""
    for _ in range(number):
        loss = step()
    if loss.device.type == "cuda":
        torch.cuda.synchronize()


def has_compiler():
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def main():
    arguments = peer_arguments(__doc__)
    workload = WORKLOADS[arguments.workload]
    weights, data = load_inputs(arguments.workload, arguments.inputs)
    if arguments.device == "gpu":
        torch.set_default_device("cuda")
        # As JAX and TensorFlow do by themselves.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    threads = arguments.threads or torch.get_num_threads()
    allowed = VARIANTS["images" if workload.ways else "sine"]
    for variant in arguments.variant.split(","):
        if not re.fullmatch(allowed, variant):
            raise SystemExit(f"Variants of {arguments.workload}: {allowed}; got {variant}.")
        line = {
            "framework": "torch",
            "variant": variant,
            "workload": arguments.workload,
            "threads": threads,
            "version": torch.__version__,
        }
        if variant == "compile" and not has_compiler():
            write_line(**line, skipped="no C++ compiler")
            continue
        limits = (arguments.seconds, arguments.min_steps)
        write_line(**line, **run(workload, variant, weights, data, threads, *limits))


if __name__ == "__main__":
    main()
