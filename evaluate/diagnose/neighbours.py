"""Wrong nearest neighbours: do they share the query's background rather than its object?"""

from __future__ import annotations

import numpy as np

# of the bank: among so many of the nearest by background features a neighbour shares the background
NEAR = 0.05


def ranks(bank: np.ndarray, queries: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The share of the bank that is nearer by cosine to each query than its chosen row: 0 for the
    nearest.

    Args:
        bank: (N, D) floats.  queries: (M, D) floats.  chosen: (M,) int rows of the bank.

    Returns:
        (M,) float64 in 0..1.
    """
    bank, queries = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        for x in (np.asarray(bank, np.float64), np.asarray(queries, np.float64))
    )
    found = np.empty(len(queries))
    for start in range(0, len(queries), 256):
        part = slice(start, start + 256)
        cosine = queries[part] @ bank.T
        own = cosine[np.arange(len(cosine)), chosen[part]]
        found[part] = (cosine > own[:, None]).mean(1)
    return found


def split(background: np.ndarray, objects: np.ndarray) -> dict[str, float]:
    """Percent of wrong neighbours by what they share with the query.

    Args:
        background, objects: (M,) ranks of the neighbours by background and by object features, see
            ranks.

    Returns:
        `same_background` and `same_object`: among the NEAR nearest (chance: 5 %);
        `background_rather`: nearer by the background than by the object (chance: 50 %);
        `background_rank`, `object_rank`: medians, percent of the bank; nan without any.
    """
    if not len(background):
        return dict.fromkeys(
            (
                "same_background",
                "same_object",
                "background_rather",
                "background_rank",
                "object_rank",
            ),
            float("nan"),
        )
    # a tie counts half, or features that cannot tell would seem to prefer one
    rather = (background < objects).mean() + (background == objects).mean() / 2
    return {
        "same_background": 100 * float((background < NEAR).mean()),
        "same_object": 100 * float((objects < NEAR).mean()),
        "background_rather": 100 * float(rather),
        "background_rank": 100 * float(np.median(background)),
        "object_rank": 100 * float(np.median(objects)),
    }


def known(
    own: list[str | None],
    bank: list[str | None],
    chosen: np.ndarray,
    background: np.ndarray,
    own_labels: np.ndarray,
    bank_labels: np.ndarray,
) -> dict[str, float]:
    """What is exactly known on the embedded data, whose backgrounds are of known kinds.

    Args:
        own: kind of background of each query.  bank: of each bank image.  chosen: (M,) the
            neighbours' rows.
        background: (M,) their ranks by background features: the estimate, which this tests.
        own_labels, bank_labels: (M,), (N,) classes: a wrong neighbour can only be of another one.

    Returns:
        `known_same_background`: percent of the neighbours of the query's kind; `known_chance`:
        percent of the bank's images of other classes that are (in a biased bank far fewer than of
        all); `estimate_auc`: how well the rank tells the two apart, 0.5 = not at all, 1 = always
        (nan where all are one).
    """
    bank = np.array(bank, object)
    same = np.array(
        [bank[row] == kind for kind, row in zip(own, chosen.tolist(), strict=True)], bool
    )
    if not len(same):
        return {
            "known_same_background": float("nan"),
            "known_chance": float("nan"),
            "estimate_auc": float("nan"),
        }
    hits, others = background[same], background[~same]
    smaller = (
        (hits[:, None] < others).mean() + (hits[:, None] == others).mean() / 2
        if len(hits) and len(others)
        else float("nan")
    )
    return {
        "known_same_background": 100 * float(same.mean()),
        "known_chance": 100
        * float(
            np.mean(
                [
                    (bank == kind)[bank_labels != label].mean()
                    for kind, label in zip(own, own_labels, strict=True)
                ]
            )
        ),
        "estimate_auc": float(smaller),
    }
