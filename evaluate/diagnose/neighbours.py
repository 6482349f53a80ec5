"""Wrong nearest neighbours: do they share the query's background rather than its object?"""

from __future__ import annotations

import numpy as np

# of the bank: among so many of the nearest by background features a neighbour shares the background
NEAR = 0.05
BLOCK = 256  # queries at a time
NAN = float("nan")


def ranks(bank: np.ndarray, queries: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The share of the bank that is nearer by cosine to each query than its chosen row: 0 for the
    nearest.

    Args:
        bank: (N, D) floats.
        queries: (M, D) floats.
        chosen: (M,) int rows of the bank.

    Returns:
        (M,) float64 in 0..1.
    """
    bank, queries = _normalised(bank), _normalised(queries)
    shares = np.empty(len(queries))
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = queries[part] @ bank.T
        own = cosine[np.arange(len(cosine)), chosen[part]]
        shares[part] = (cosine > own[:, None]).mean(1)
    return shares


def split(background: np.ndarray, objects: np.ndarray) -> dict[str, float]:
    """Percent of wrong neighbours by what they share with the query.

    Args:
        background, objects: (M,) ranks of the neighbours by background and by object features.

    Returns:
        `same_background` and `same_object`: among the NEAR nearest (chance: 5 %);
        `background_rather`: nearer by the background than by the object (chance: 50 %);
        `background_rank`, `object_rank`: medians, percent of the bank; nan without neighbours.
    """
    values = {
        "same_background": _mean(background < NEAR),
        "same_object": _mean(objects < NEAR),
        "background_rather": _mean(_smaller(background, objects)),
        "background_rank": np.median(background) if len(background) else NAN,
        "object_rank": np.median(objects) if len(objects) else NAN,
    }
    return {name: 100 * float(value) for name, value in values.items()}


def known(same: np.ndarray, chance: np.ndarray, background: np.ndarray) -> dict[str, float]:
    """What is exactly known on the embedded data, whose backgrounds are of known kinds.

    Args:
        same: (M,) bool, whether a wrong neighbour's background is of the query's kind.
        chance: (M,) share of the bank that could have been chosen whose background is.
        background: (M,) ranks of the neighbours by background features: the estimate that is
            tested.

    Returns:
        `known_same_background` and `known_chance`: percent; `estimate_auc`: how well the rank
        distinguishes the two, 0.5 = not at all, 1 = always; nan where there is nothing to compare.
    """
    return {
        "known_same_background": 100 * _mean(same),
        "known_chance": 100 * _mean(chance),
        "estimate_auc": _mean(_smaller(background[same][:, None], background[~same])),
    }


def share_of_kind(
    kinds: np.ndarray, labels: np.ndarray, bank_kinds: np.ndarray, bank_labels: np.ndarray
) -> np.ndarray:
    """(M,) share of the bank's images of another class that have each query's kind of background:
    in a biased bank far fewer than of all its images."""
    pairs = zip(kinds, labels, strict=True)
    return np.array([_mean(bank_kinds[bank_labels != label] == kind) for kind, label in pairs])


def _normalised(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether a < b; a tie counts half, or features that cannot distinguish would seem to."""
    return (a < b) + (a == b) / 2


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else NAN
