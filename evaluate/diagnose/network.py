"""One network of a diagnosis: its decisions, where they come from, and its wrong neighbours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.heat import Score, heat, knn_score, linear_score
from evaluate.diagnose.localisation import chance, heatmap_statistics, percent
from evaluate.diagnose.neighbours import known, ranks, share_of_kind, split
from evaluate.diagnose.parts import Parts, Split
from evaluate.diagnose.splits import background_kinds
from evaluate.features import Encoder, extract
from evaluate.probes.linear import fit_probe
from train.features import batches
from train.knn import nearest, vote

BATCH = 64
MAIN = ("share", "pointing", "iou", "same_background", "background_rather", "known_same_background")


@dataclass(frozen=True)
class Study:
    """What all networks of a diagnosis are judged on.

    Attributes:
        embedded: description of the embedded data set, whose backgrounds are of known kinds.
        reference: of the backgrounds and of the objects: the bank's and the queries' features;
            None: not known.
    """

    arguments: Arguments
    bank: Split
    queries: Split
    embedded: dict | None
    reference: list[list[np.ndarray]] | None = None

    def features(self, encoder: Encoder, cut: str = "image") -> list[np.ndarray]:
        """(N, D) float32 features of the bank and of the queries, or of a part of each image."""
        parts = [Parts(split, encoder.size, cut) for split in (self.bank, self.queries)]
        return [np.asarray(extract(encoder, part), np.float32) for part in parts]


class Pictures(NamedTuple):
    """A network's columns of the figure: (n, s, s, 3) uint8 images and (n, s, s) uint8 masks; by
    decision whether it is right, (n,) bool, and the heat maps, (n, s, s)."""

    images: np.ndarray
    objects: np.ndarray
    right: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]


def diagnose(study: Study, encoder: Encoder, stage: str) -> tuple[dict, Pictures]:
    """One network's numbers and pictures.

    Args:
        stage: at whose resolution the maps are.

    Returns:
        {"accuracy", "maps", "neighbours", "chance"}, see evaluate.diagnose.command.evaluate.
    """
    arguments, bank, queries = study.arguments, study.bank, study.queries
    train, test = study.features(encoder)
    cosine, rows = nearest(train, test, arguments.k, encoder.device)
    classes, temperature = len(bank.images.classes), arguments.temperature
    probe = fit_probe(train, bank.labels, classes, arguments.l2)
    decided = {
        "knn": vote(cosine, rows, bank.labels, arguments.k, temperature, classes),
        "linear": probe.scores(test).argmax(1),
    }
    normal, labels = F.normalize(torch.from_numpy(train), dim=1), torch.from_numpy(bank.labels)

    def scores(part: slice) -> dict[str, Score]:
        knn, linear = (torch.from_numpy(values[part]) for values in decided.values())
        return {
            "knn": knn_score(normal, labels, rows[part], knn, temperature),
            "linear": linear_score(probe, linear),
        }

    crops = Parts(queries, encoder.size)
    masks = crops.crops_of_masks()
    maps = heat_maps(crops, encoder, stage, scores)
    numbers = {
        kind: {name: percent(heatmap_statistics(values, masks)) for name, values in methods.items()}
        for kind, methods in maps.items()
    }
    neighbours = wrong_neighbours(study, rows[:, 0].numpy())
    right = {kind: values == queries.labels for kind, values in decided.items()}
    main = numbers["knn"]["gradcam"] | neighbours
    accuracy = {name: main[name] for name in MAIN if name in main}
    accuracy |= {kind: 100 * float(values.mean()) for kind, values in right.items()}
    count = min(arguments.examples, len(masks))
    chosen = np.linspace(0, len(masks) - 1, count).round().astype(int)
    pictures = Pictures(
        np.array([crops[i] for i in chosen]),
        masks[chosen],
        {kind: values[chosen] for kind, values in right.items()},
        {kind: methods["gradcam"][chosen] for kind, methods in maps.items()},
    )
    parts = {"accuracy": accuracy, "maps": numbers, "neighbours": neighbours}
    return {**parts, "chance": chance(masks)}, pictures


def heat_maps(
    crops: Parts, encoder: Encoder, stage: str, scores: Callable[[slice], dict[str, Score]]
) -> dict[str, dict[str, np.ndarray]]:
    """decision -> method -> (M, s, s) of all queries.

    Args:
        scores: of the decisions on a part of the queries.
    """
    parts: dict[str, list[dict[str, np.ndarray]]] = defaultdict(list)
    loader = batches(crops, encoder.workers, encoder.device, BATCH)
    for i, batch in enumerate(tqdm(loader, desc="heat maps", unit="batch", leave=False)):
        for kind, score in scores(slice(i * BATCH, (i + 1) * BATCH)).items():
            parts[kind].append(heat(encoder, batch, score, stage))
    return {
        kind: {method: np.concatenate([maps[method] for maps in of]) for method in of[0]}
        for kind, of in parts.items()
    }


def wrong_neighbours(study: Study, chosen: np.ndarray) -> dict[str, float]:
    """What nearest neighbours of another class share with the query.

    Args:
        chosen: (M,) each query's nearest row of the bank.
    """
    bank, queries = study.bank, study.queries
    wrong = np.flatnonzero(bank.labels[chosen] != queries.labels)
    numbers = {"nearest_wrong": len(wrong), "queries": len(queries.rows)}
    if study.reference is None:
        return numbers
    chosen = chosen[wrong]
    background, objects = (
        ranks(of_bank, of_queries[wrong], chosen) for of_bank, of_queries in study.reference
    )
    numbers |= split(background, objects)
    if study.embedded:
        kinds = background_kinds(queries, study.embedded)[wrong]
        bank_kinds = background_kinds(bank, study.embedded)
        shares = share_of_kind(kinds, queries.labels[wrong], bank_kinds, bank.labels)
        numbers |= known(bank_kinds[chosen] == kinds, shares, background)
    return numbers
