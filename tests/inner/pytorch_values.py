"""Makes `pytorch_values.json`: the meta-gradient through inner optimizers, by PyTorch in float64.

    python tests/inner/pytorch_values.py        # where PyTorch is installed; 2.13 made the file

The rules are written out, because PyTorch's optimizers assign weights and no gradient flows through
them. That they are PyTorch's is checked against `torch.optim` step by step before anything is
written. The problem is that of `tests/inner/test_clipping_and_kinds.py`, which says it in numpy.
"""

import json
import pathlib

import torch

STEPS = 3
MIX = [[1.0, -0.5, 0.2], [0.7, 0.1, -1.0]]
CASES = {
    "nesterov": {"kind": "SGD", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    "momentum-global_clipnorm": {
        "kind": "SGD",
        "learning_rate": 0.1,
        "momentum": 0.5,
        "global_clipnorm": 0.5,
    },
    "clipvalue": {"kind": "SGD", "learning_rate": 0.2, "clipvalue": 0.3},
    "clipnorm": {"kind": "SGD", "learning_rate": 0.2, "clipnorm": 0.8},
    "global_clipnorm": {"kind": "SGD", "learning_rate": 0.2, "global_clipnorm": 0.9},
    "global_clipnorm-never": {"kind": "SGD", "learning_rate": 0.2, "global_clipnorm": 1e3},
    "weight_decay": {"kind": "SGD", "learning_rate": 0.2, "weight_decay": 0.25},
    "adam-weight_decay": {"kind": "Adam", "learning_rate": 0.1, "weight_decay": 0.25},
    "adam-clipvalue": {"kind": "Adam", "learning_rate": 0.1, "clipvalue": 0.3, "epsilon": 1e-3},
    "rmsprop": {"kind": "RMSprop", "learning_rate": 0.05, "rho": 0.8, "epsilon": 1e-2},
    "rmsprop-momentum": {"kind": "RMSprop", "learning_rate": 0.05, "rho": 0.8, "momentum": 0.5},
    "rmsprop-clipnorm": {"kind": "RMSprop", "learning_rate": 0.05, "clipnorm": 0.8},
    "adagrad": {"kind": "Adagrad", "learning_rate": 0.2, "initial_accumulator_value": 0.0},
    "adagrad-decay": {
        "kind": "Adagrad",
        "learning_rate": 0.2,
        "epsilon": 1e-2,
        "weight_decay": 0.5,
        "global_clipnorm": 0.9,
    },
}


def waves(count, *shape):
    """Numbers that look like noise and are the same everywhere: sin(i²) and so on."""
    i = torch.arange(count * torch.Size(shape).numel(), dtype=torch.float64).reshape(count, *shape)
    return torch.sin(1.7 * i * i + 0.3)


def data():
    x = waves(12, 2)
    return x, 2 * torch.cos(3 * x @ torch.tensor(MIX, dtype=torch.float64))


def start():
    return [0.5 * waves(2, 3), torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)]


def loss(weights, x, y):
    prediction = torch.tanh(x @ weights[0]) + weights[1] ** 3 + weights[1]
    return ((prediction - y) ** 2).mean()


def clip(gradients, case):
    if "clipvalue" in case:
        return [g.clamp(-case["clipvalue"], case["clipvalue"]) for g in gradients]
    if "clipnorm" in case:
        return [g * torch.clamp(case["clipnorm"] / g.norm(), max=1.0) for g in gradients]
    if "global_clipnorm" in case:
        norm = torch.sqrt(sum((g**2).sum() for g in gradients))
        return [g * torch.clamp(case["global_clipnorm"] / norm, max=1.0) for g in gradients]
    return gradients


def step(t, w, g, slot, case):
    """One weight after step t (from 1): `(w, slot)`."""
    rate, epsilon = case["learning_rate"], case.get("epsilon", 1e-8)
    w = w * (1 - rate * case.get("weight_decay", 0.0))
    momentum = case.get("momentum", 0.0)
    if case["kind"] == "SGD":
        slot = g if slot is None else momentum * slot + g
        return w - rate * (g + momentum * slot if case.get("nesterov") else slot), slot
    if case["kind"] == "Adam":
        m, v = slot or (0.0, 0.0)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        return w - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + epsilon), (m, v)
    if case["kind"] == "RMSprop":
        v, moved = slot or (0.0, 0.0)
        rho = case.get("rho", 0.9)
        v = rho * v + (1 - rho) * g**2
        moved = momentum * moved + g / (v.sqrt() + epsilon)
        return w - rate * moved, (v, moved)
    v = (case.get("initial_accumulator_value", 0.1) if slot is None else slot) + g**2
    return w - rate * g / (v.sqrt() + epsilon), v


def adapt(weights, case):
    x, y = data()
    slots, path = [None] * len(weights), []
    for t in range(1, STEPS + 1):
        gradients = torch.autograd.grad(loss(weights, x[:5], y[:5]), weights, create_graph=True)
        moved = [
            step(t, w, g, s, case)
            for w, g, s in zip(weights, clip(gradients, case), slots, strict=True)
        ]
        weights, slots = [w for w, _ in moved], [s for _, s in moved]
        path.append(weights)
    return path


def theirs(case):
    """The same steps by `torch.optim`; None where it has no such rule."""
    weights = [w.clone().requires_grad_() for w in start()]
    rate, momentum = case["learning_rate"], case.get("momentum", 0.0)
    decay, epsilon = case.get("weight_decay", 0.0), case.get("epsilon", 1e-8)
    if case["kind"] == "SGD":
        if decay and momentum:
            return None  # theirs decays the gradient, which is the same without momentum only
        optimizer = torch.optim.SGD(
            weights, rate, momentum, weight_decay=decay, nesterov=case.get("nesterov", False)
        )
    elif case["kind"] == "Adam":
        optimizer = torch.optim.AdamW(weights, rate, eps=epsilon, weight_decay=decay)
    elif case["kind"] == "RMSprop":
        alpha = case.get("rho", 0.9)
        optimizer = torch.optim.RMSprop(weights, rate, alpha, epsilon, momentum=momentum)
    else:
        if decay:
            return None
        first = case.get("initial_accumulator_value", 0.1)
        optimizer = torch.optim.Adagrad(weights, rate, initial_accumulator_value=first, eps=epsilon)
    x, y = data()
    path = []
    for _ in range(STEPS):
        gradients = torch.autograd.grad(loss(weights, x[:5], y[:5]), weights)
        for w, g in zip(weights, clip(gradients, case), strict=True):
            w.grad = g
        optimizer.step()
        path.append([w.detach().clone() for w in weights])
    return path


def main():
    """Checks the rules, and writes weights after each step and the meta-gradient."""
    x, y = data()
    written = {}
    for name, case in CASES.items():
        weights = [w.clone().requires_grad_() for w in start()]
        path = adapt(weights, case)
        other = theirs(case)
        for ours, expected in zip(path, other or path, strict=True):
            for a, b in zip(ours, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
        outer = loss(path[-1], x[5:], y[5:])
        gradients = torch.autograd.grad(outer, weights)
        written[name] = {
            "settings": case,
            "adapted": [w.tolist() for w in path[-1]],
            "meta_gradient": [g.tolist() for g in gradients],
        }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
