"""TokenCut's eigenvector by Lanczos against the authors' dense solver, as a ratio of times, into docs/masks.md.

    python -m benchmarks.eigenvectors --json runs/bench/eigenvectors.json

One core, CPU time; graphs of random features in three clusters, as many tokens as `dino` has at each patch size.
The two take turns and the fastest of each counts.
"""

from __future__ import annotations

import benchmarks.one_core  # noqa: F401 - before numpy is imported

# isort: split
from dataclasses import dataclass

import numpy as np
import tyro
from scipy.linalg import eigh

from benchmarks.publish import publish
from benchmarks.speed import timed
from data.cli import run
from preprocess.networks.tokencut import affinity, second_vector

TOKENS = {16: 21 * 21, 14: 24 * 24, 8: 42 * 42}  # patch side in px -> tokens of 336 x 336 px


@dataclass(frozen=True)
class Arguments:
    """Time TokenCut's eigenvector."""

    json: str = "runs/bench/eigenvectors.json"
    """File for the numbers."""
    patches: tuple[int, ...] = (16, 14, 8)
    """Sides of a patch in px."""
    repeats: int = 3
    """Times each graph is solved; the fastest counts."""
    readme: str = "docs/masks.md"
    """File whose bench-eigenvectors block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.eigenvectors", description=__doc__)
    result = {patch: measure(TOKENS[patch], args.repeats) for patch in args.patches}
    publish(result, table(result), args.json, args.readme, "bench-eigenvectors")
    return 0


def measure(tokens: int, repeats: int) -> dict:
    """{"tokens", "dense_ms", "lanczos_ms", "ratio", "correlation"}, the last of the two vectors, without sign."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 64))[rng.integers(0, 3, tokens)] + rng.normal(0, 1, (tokens, 64))
    weight = affinity(features)
    degree = np.diag(weight.sum(1))
    seconds, vectors = {"dense": np.inf, "lanczos": np.inf}, {}

    def dense() -> None:
        vectors["dense"] = eigh(degree - weight, degree, subset_by_index=[1, 2])[1][:, 0]

    def lanczos() -> None:
        vectors["lanczos"] = second_vector(weight)

    for _ in range(repeats):
        for name, function in (("dense", dense), ("lanczos", lanczos)):
            seconds[name] = min(seconds[name], timed(function))
    one, two = (v / np.linalg.norm(v) for v in vectors.values())
    return {"tokens": tokens, "dense_ms": 1e3 * seconds["dense"], "lanczos_ms": 1e3 * seconds["lanczos"],
            "ratio": seconds["dense"] / seconds["lanczos"], "correlation": float(abs(one @ two))}


def table(result: dict[int, dict]) -> str:
    lines = ["| patch, px | tokens | dense, ms | Lanczos, ms | times faster | correlation |",
             "|--:|--:|--:|--:|--:|--:|"]
    lines += [f"| {patch} | {r['tokens']} | {r['dense_ms']:.1f} | {r['lanczos_ms']:.1f} | {r['ratio']:.0f} | "
              f"{r['correlation']:.9f} |" for patch, r in result.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
