"""The meta-gradient through low-rank factors once more, by PyTorch's autograd, in float64.

    python tests/learners/low_rank_in_torch.py > tests/learners/low_rank_in_torch.json

PyTorch is no dependency of the tests: what this printed (PyTorch 2.13) stands in the JSON file that
`test_low_rank_gradient.py` reads. All numbers are sines, so that both need no random generator.
"""

import json
import math

RATE, STEPS, RANK, ALPHA = 0.3, 2, 2, 3.0
# Name, shape, and where its sines begin.
WEIGHTS = {
    "kernel": ((3, 4), 0),  # frozen
    "bias": ((4,), 20),
    "lora_a": ((3, RANK), 30),
    "lora_b": ((RANK, 4), 40),
    "head_kernel": ((4, 2), 50),
    "head_bias": ((2,), 60),
}
DATA = {
    "support_x": ((2, 5, 3), 100),
    "support_y": ((2, 5, 2), 200),
    "query_x": ((2, 4, 3), 300),
    "query_y": ((2, 4, 2), 400),
}


def sines(shape, begin):
    """A flat list of as many numbers as the shape holds, in [-0.7, 0.7]."""
    return [0.7 * math.sin(begin + 1.3 * i) for i in range(math.prod(shape))]


def main():
    """Prints the loss and its gradient."""
    import torch

    def tensor(shape, begin):
        return torch.tensor(sines(shape, begin), dtype=torch.float64).reshape(shape)

    weights = {name: tensor(*spec) for name, spec in WEIGHTS.items()}
    data = {name: tensor(*spec) for name, spec in DATA.items()}
    trained = [name for name in weights if name != "kernel"]
    for name in trained:
        weights[name].requires_grad_(True)

    def loss(w, x, y):
        kernel = w["kernel"] + ALPHA / RANK * w["lora_a"] @ w["lora_b"]
        hidden = torch.tanh(x @ kernel + w["bias"])
        return ((hidden @ w["head_kernel"] + w["head_bias"] - y) ** 2).mean()

    total = 0
    for task in range(2):
        fast = dict(weights)
        for _ in range(STEPS):
            inner = loss(fast, data["support_x"][task], data["support_y"][task])
            gradients = torch.autograd.grad(inner, [fast[n] for n in trained], create_graph=True)
            moved = zip(trained, gradients, strict=True)
            fast |= {name: fast[name] - RATE * g for name, g in moved}
        total = total + loss(fast, data["query_x"][task], data["query_y"][task]) / 2
    gradients = torch.autograd.grad(total, [weights[name] for name in trained])
    found = {name: g.flatten().tolist() for name, g in zip(trained, gradients, strict=True)}
    print(json.dumps({"loss": float(total.detach()), "gradients": found}, indent=1))


if __name__ == "__main__":
    main()
