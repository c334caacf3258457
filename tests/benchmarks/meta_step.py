"""Times a meta-training step of maml_tf beside PyTorch and JAX, on this machine, in one run.

    python3.11 -m venv .peers
    .peers/bin/pip install -r tests/benchmarks/requirements-peers.txt
    python -m tests.benchmarks.meta_step --peers .peers/bin/python

(`--workloads mini_imagenet --rounds 1 --min-steps 3` is a short run: its steps take seconds.)
Every line is a process of its own, on the same weights and tasks; in every round each of them runs
once. Losses and meta-gradients must agree before a time counts. Nothing else should run.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
# Of each framework what was fastest, and the ways its users know.
VARIANTS = {
    "sine": {
        "ours": ["fit", "fit_after", "pipeline"],
        "torch": ["vmap", "bmm"],
        "jax": ["vmap", "map"],
    },
    "omniglot5": {
        "ours": ["fit", "fit_after", "fit_first_order"],
        "torch": ["loop", "vmap", "threads", "processes"],
        "jax": ["vmap", "map", "parts"],
    },
    "omniglot20": {
        "ours": ["fit", "fit_after", "fit_rematerialized"],
        "torch": ["loop", "threads", "processes"],
        "jax": ["map", "parts"],
    },
    "mini_imagenet": {
        "ours": ["fit", "fit_after", "fit_rematerialized"],
        "torch": ["loop", "vmap", "threads", "processes"],
        "jax": ["vmap", "map", "parts"],
    },
}
# These see other tasks or another gradient on purpose: no agreement is asked of them.
DIFFERENT = {"pipeline", "fit_first_order"}


def chosen(workload, peers, variants):
    """What runs of a workload in a round: pairs of a framework and a variant."""
    return [
        (framework, variant)
        for framework, own in VARIANTS[workload].items()
        for variant in own
        if (peers or framework == "ours") and (variants is None or variant in variants)
    ]


def run(python, framework, workload, variant, inputs, seconds, min_steps):
    """One line of the benchmark, a dict, or None with the reason printed."""
    if framework == "ours":
        command = [sys.executable, "-m", "tests.benchmarks.ours"]
    else:
        command = [python, str(HERE / f"peers_{framework}.py")]
    command += ["--workload", workload, "--variant", variant, "--inputs", str(inputs)]
    command += ["--seconds", str(seconds), "--min-steps", str(min_steps)]
    if variant in ("threads", "processes", "parts"):
        command += ["--threads", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{framework} {variant}: failed: {reason}", file=sys.stderr)
        return None
    return json.loads(result.stdout.strip().splitlines()[-1])


def check_agreement(rows):
    """Names every row whose first loss or meta-gradient differs from ours."""
    ours = next(row for row in rows if row["framework"] == "maml_tf")
    for row in rows:
        for key in ("loss", "gradient_norm"):
            off = abs(row[key] - ours[key]) / abs(ours[key])
            if row["variant"] not in DIFFERENT and not off < 1e-3:
                print(f"{row['framework']} {row['variant']}: {key} differs by {off:.1e}")


def table(workload, rows):
    """Markdown: median time of a step, how many times slower than ours, peak memory."""
    ours = next(row["ms"] for row in rows if row["variant"] == "fit")
    lines = [f"\n{workload}\n", "| | ms a step | against ours | peak MB |", "|---|---|---|---|"]
    for row in rows:
        ms = f"{row['ms']:,.0f}" if row["ms"] >= 100 else f"{row['ms']:.3g}"
        lines.append(
            f"| {row['framework']} {row['variant']} | {ms} | "
            f"{row['ms'] / ours:.2f} | {row['peak_mb']:.0f} |"
        )
    return "\n".join(lines)


def main():
    """Runs all rounds and prints a table for each workload."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", help="Python with the peers; without it only ours is timed")
    parser.add_argument("--workloads", default=",".join(VARIANTS))
    parser.add_argument(
        "--variants", type=lambda names: names.split(","), help="only these, such as fit,map"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="timed in each process")
    parser.add_argument("--min-steps", type=int, default=10, help="timed in each peer's process")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for all lines")
    arguments = parser.parse_args()
    if arguments.variants and "fit" not in arguments.variants:
        parser.error("--variants: expected `fit` among them, beside which the others stand.")
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for workload in arguments.workloads.split(","):
            inputs = pathlib.Path(folder) / f"{workload}.npz"
            make = [sys.executable, str(HERE / "inputs.py"), "--workload", workload]
            subprocess.run([*make, "--output", str(inputs)], check=True)
            rows = {}
            for _ in range(arguments.rounds):
                for framework, variant in chosen(workload, arguments.peers, arguments.variants):
                    limits = (arguments.seconds, arguments.min_steps)
                    line = run(arguments.peers, framework, workload, variant, inputs, *limits)
                    if line:
                        rows.setdefault((framework, variant), []).append(line)
                        lines.append(line)
            merged = [
                {**all_rounds[0], "ms": float(np.median([r["ms_per_step"] for r in all_rounds]))}
                for all_rounds in rows.values()
            ]
            check_agreement(merged)
            print(table(workload, merged), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
