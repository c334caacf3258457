"""Gradients and Hessian-vector products of the MAML-TRPO peers in PyTorch.

Each variant is a class: ``value`` gives surrogate and divergence, ``linearized`` the surrogate, its
exact gradient and the products of the divergence's Hessian H with a vector, all of them means over
tasks and through the inner step. Everything works on one flat vector of weights, theta.

* ``loop``: task after task with ``torch.autograd.grad(create_graph=True)``. The gradient of the
  divergence is built once and differentiated again for each product, as in tristandeleu's
  pytorch-maml-rl; learn2learn builds it anew for each. The surrogate shares its forward pass.
* ``threads``: ``loop`` in several Python threads, a task at a time in each, and one thread inside
  an operation.
* ``fisher``: ``threads`` with our products in place of the usual ones, J' F J x with the Fisher
  information F of the adapted policy. It tells apart what the formula gains and what the rest.
* ``vmap``: ``torch.func.vmap``, ``grad`` and ``vjp`` over all tasks at once.
"""

import math

import torch
from torch.autograd import grad

SMALLEST_LOG_SCALE = math.log(1e-6)


class Policy:
    """Two hidden layers of ReLU units and a learned standard deviation, from a flat vector."""

    def __init__(self, shapes):
        self.shapes = shapes
        self.sizes = [math.prod(shape) for shape in shapes]

    def __call__(self, theta, x):
        """Means ``[N, A]`` and logarithms of the standard deviation ``[A]``."""
        parts = theta.split(self.sizes)
        weights = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        x = torch.relu(torch.addmm(weights[1], x, weights[0]))
        x = torch.relu(torch.addmm(weights[3], x, weights[2]))
        return torch.addmm(weights[5], x, weights[4]), weights[6].clamp(min=SMALLEST_LOG_SCALE)


def log_prob(loc, log_scale, action):
    """Logarithm of the density, but for a constant that no gradient and no ratio knows."""
    return -0.5 * ((action - loc) * torch.exp(-log_scale)).square().sum(-1) - log_scale.sum()


def inner_loss(policy, theta, before):
    outputs = policy(theta, before["observation"])
    return -torch.dot(before["weighted_advantage"], log_prob(*outputs, before["action"]))


def surrogate(outputs, after):
    ratio = torch.exp(log_prob(*outputs, after["action"]) - after["old_log_prob"])
    return -torch.dot(after["weighted_advantage"], ratio)


def divergence(outputs, after):
    """Mean Kullback-Leibler divergence from the policy that acted."""
    loc, log_scale = outputs
    old_loc, old_log_scale = after["old_loc"], after["old_log_scale"]
    squares = (loc - old_loc).square() + torch.exp(2 * old_log_scale)
    each = (log_scale - old_log_scale) + 0.5 * squares * torch.exp(-2 * log_scale) - 0.5
    return torch.dot(after["weight"], each.sum(-1))


class Loop:
    """Means over tasks, one task after the other; ``over`` is ``map`` or that of a pool."""

    def __init__(self, policy, inner_rate, before, after, over=map):
        self.policy, self.inner_rate, self.over = policy, inner_rate, over
        count = len(before["observation"])
        self.tasks = [
            tuple({k: v[i] for k, v in s.items()} for s in (before, after)) for i in range(count)
        ]

    def adapted(self, theta, before, create_graph):
        (gradient,) = grad(inner_loss(self.policy, theta, before), theta, create_graph=create_graph)
        return theta - self.inner_rate * gradient

    def value(self, theta):
        """The surrogate and the divergence, ``[2]``."""
        theta = theta.detach().requires_grad_()

        def one(task):
            before, after = task
            fast = self.adapted(theta, before, create_graph=False)
            # Here, not around the loop: the mode belongs to a thread.
            with torch.no_grad():
                outputs = self.policy(fast, after["observation"])
                return torch.stack([surrogate(outputs, after), divergence(outputs, after)])

        return sum(self.over(one, self.tasks)) / len(self.tasks)

    def linearized(self, theta, curvature_tasks):
        """The surrogate, its gradient, and the function from a vector to its product with H."""
        theta = theta.detach().requires_grad_()

        def one(number, task):
            before, after = task
            curved = number < curvature_tasks
            fast = self.adapted(theta, before, create_graph=True)
            outputs = self.policy(fast, after["observation"])
            loss = surrogate(outputs, after)
            (gradient,) = grad(loss, theta, retain_graph=curved)
            slope = None
            if curved:
                (slope,) = grad(divergence(outputs, after), theta, create_graph=True)
            return loss.detach(), gradient, slope

        results = self.over(one, range(len(self.tasks)), self.tasks)
        losses, gradients, slopes = zip(*results, strict=True)
        slopes = slopes[:curvature_tasks]

        def product(x):
            def one_product(slope):
                return grad(slope, theta, x, retain_graph=True)[0]

            return sum(self.over(one_product, slopes)) / len(slopes)

        return sum(losses) / len(losses), sum(gradients) / len(gradients), product


class Fisher(Loop):
    """With J' F J x for a product; J, one less the rate times a Hessian, is symmetric."""

    def linearized(self, theta, curvature_tasks):
        theta = theta.detach().requires_grad_()

        def one(number, task):
            before, after = task
            (inner,) = grad(inner_loss(self.policy, theta, before), theta, create_graph=True)

            def through_step(x):
                return x - self.inner_rate * grad(inner, theta, x, retain_graph=True)[0]

            fast = (theta - self.inner_rate * inner).detach().requires_grad_()
            outputs = self.policy(fast, after["observation"])
            loss = surrogate(outputs, after)
            gradient = through_step(grad(loss, fast, retain_graph=True)[0])
            fisher = fisher_product(outputs, fast, after) if number < curvature_tasks else None
            return loss.detach(), gradient, (through_step, fisher)

        results = self.over(one, range(len(self.tasks)), self.tasks)
        losses, gradients, steps = zip(*results, strict=True)
        steps = steps[:curvature_tasks]

        def product(x):
            def one_product(step):
                through_step, fisher = step
                return through_step(fisher(through_step(x)))

            return sum(self.over(one_product, steps)) / len(steps)

        return sum(losses) / len(losses), sum(gradients) / len(gradients), product


def fisher_product(outputs, fast, after):
    """The function from x to F x, where F is taken at the outputs of the weights ``fast``."""
    # The pullback is linear in what is pulled: its own pullback is the derivative along x.
    pulled = [torch.zeros_like(o).requires_grad_() for o in outputs]
    (pullback,) = grad(outputs, fast, pulled, create_graph=True)
    precision = torch.exp(-2 * outputs[1].detach())

    def product(x):
        loc, log_scale = grad(pullback, pulled, x, retain_graph=True)
        loc = after["weight"][:, None] * precision * loc
        log_scale = 2 * after["weight"].sum() * log_scale
        return grad(outputs, fast, (loc, log_scale), retain_graph=True)[0]

    return product


class Vmap:
    """``Loop``, all tasks at once."""

    def __init__(self, policy, inner_rate, before, after):
        self.policy, self.inner_rate, self.tasks = policy, inner_rate, (before, after)

    def mean(self, losses, theta, tasks=None):
        """The mean over the first tasks of each of ``losses``."""

        def one(before, after):
            gradient = torch.func.grad(lambda w: inner_loss(self.policy, w, before))(theta)
            outputs = self.policy(theta - self.inner_rate * gradient, after["observation"])
            return [loss(outputs, after) for loss in losses]

        first = [{k: v[:tasks] for k, v in sample.items()} for sample in self.tasks]
        return [values.mean() for values in torch.func.vmap(one)(*first)]

    def value(self, theta):
        with torch.no_grad():
            return torch.stack(self.mean([surrogate, divergence], theta))

    def linearized(self, theta, curvature_tasks):
        def loss(theta):
            return self.mean([surrogate], theta)[0]

        def curved(theta):
            return self.mean([divergence], theta, curvature_tasks)[0]

        gradient, value = torch.func.grad_and_value(loss)(theta)
        # H is symmetric: the pullback of the divergence's gradient, built once, is its product.
        _, pullback = torch.func.vjp(torch.func.grad(curved), theta)
        return value, gradient, lambda x: pullback(x)[0]
