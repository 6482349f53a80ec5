"""One network of a diagnosis: its decisions, where they come from, and its wrong neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from evaluate.diagnose import heat
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.localisation import chance, heatmap_statistics, percent
from evaluate.diagnose.neighbours import known, ranks, share_of_kind, split
from evaluate.diagnose.splits import Split, background_kinds
from evaluate.features import Encoder, batches, extract_from
from evaluate.probes.linear import Probe, fit_probe
from train.knn import nearest, vote

BATCH = 64
CUTS = ("background", "object")
Maps = dict[str, dict[str, np.ndarray]]  # decision -> method -> (M, s, s)


@dataclass(frozen=True)
class Decisions:
    """What a network decides of the queries.

    Attributes:
        bank: (N, D) float32 features.
        rows: (M, k) int64, each query's nearest in the bank.
        probe: the linear classifier.
        classes: "knn" and "linear": (M,) int64.
    """

    bank: np.ndarray
    rows: torch.Tensor
    probe: Probe
    classes: dict[str, np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """A network's columns of the figure.

    Attributes:
        images: (n, s, s, 3) uint8; objects: (n, s, s) uint8 masks.
        right: decision -> (n,) bool.
        maps: decision -> (n, s, s).
    """

    images: np.ndarray
    objects: np.ndarray
    right: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]


def features(encoder: Encoder, which: Split, cut: str, workers: int) -> np.ndarray:
    """(N, D) float32 features of the images of a split, or of a part of them."""
    parts = which.parts(encoder.size, cut)
    return np.asarray(extract_from(encoder, parts, workers=workers), np.float32)


def diagnose(
    arguments: Arguments,
    encoder: Encoder,
    stage: str,
    bank: Split,
    queries: Split,
    shared: dict[str, dict],
) -> tuple[dict, Pictures]:
    """One network's numbers and pictures.

    Args:
        stage: at whose resolution the maps are.
        shared: of wrong neighbours, see wrong_neighbours.

    Returns:
        {"accuracy", "maps", "neighbours", "chance"}, see evaluate.diagnose.command.evaluate.
    """
    decisions = decide(arguments, encoder, bank, queries)
    maps = heat_maps(arguments, encoder, stage, queries, bank.labels, decisions)
    masks = queries.parts(encoder.size).crops_of_masks()
    numbers = {
        kind: {name: percent(heatmap_statistics(values, masks)) for name, values in methods.items()}
        for kind, methods in maps.items()
    }
    neighbours = wrong_neighbours(decisions.rows[:, 0].numpy(), bank, queries, **shared)
    right = {kind: classes == queries.labels for kind, classes in decisions.classes.items()}
    main = numbers["knn"]["gradcam"]
    accuracy = {name: main[name] for name in ("share", "pointing", "iou")}
    for name in ("same_background", "background_rather", "known_same_background"):
        if name in neighbours:
            accuracy[name] = neighbours[name]
    accuracy |= {kind: 100 * float(values.mean()) for kind, values in right.items()}
    count = min(arguments.examples, len(masks))
    chosen = np.linspace(0, len(masks) - 1, count).round().astype(int)
    images = queries.parts(encoder.size)
    pictures = Pictures(
        np.array([images[int(i)] for i in chosen]),
        masks[chosen],
        {kind: values[chosen] for kind, values in right.items()},
        {kind: methods["gradcam"][chosen] for kind, methods in maps.items()},
    )
    parts = {"accuracy": accuracy, "maps": numbers, "neighbours": neighbours}
    return {**parts, "chance": chance(masks)}, pictures


def decide(arguments: Arguments, encoder: Encoder, bank: Split, queries: Split) -> Decisions:
    """The kNN decision and a linear one."""
    train = features(encoder, bank, "image", arguments.workers)
    test = features(encoder, queries, "image", arguments.workers)
    count = len(bank.images.classes)
    k, temperature = arguments.k, arguments.temperature
    cosine, rows = nearest(train, test, k, encoder.device)
    probe = fit_probe(train, bank.labels, count, arguments.l2)
    classes = {
        "knn": vote(cosine, rows, bank.labels, k, temperature, count),
        "linear": probe.scores(test).argmax(1),
    }
    return Decisions(train, rows, probe, classes)


def heat_maps(
    arguments: Arguments,
    encoder: Encoder,
    stage: str,
    queries: Split,
    bank_labels: np.ndarray,
    decisions: Decisions,
) -> Maps:
    """Where both decisions come from, for every query."""
    device, rows = encoder.device, decisions.rows
    bank = F.normalize(torch.from_numpy(decisions.bank), dim=1)
    labels = torch.from_numpy(bank_labels)
    parts = {kind: {method: [] for method in heat.METHODS} for kind in decisions.classes}
    images, done = queries.parts(encoder.size), 0
    loader = batches(images, arguments.workers, device, BATCH)
    for crops in tqdm(loader, desc="heat maps", unit="batch", leave=False):
        part = slice(done, done + len(crops))
        done += len(crops)
        knn, linear = (torch.from_numpy(decisions.classes[kind][part]).to(device) for kind in parts)
        near = torch.unique(rows[part])  # only these rows of the bank go to the device
        places = torch.searchsorted(near, rows[part]).to(device)
        vote_score = heat.knn_score(
            bank[near].to(device), labels[near].to(device), places, knn, arguments.temperature
        )
        logit_score = heat.linear_score(decisions.probe, linear, device)
        for kind, score in (("knn", vote_score), ("linear", logit_score)):
            for method, values in heat.heat(encoder, crops, score, stage).items():
                parts[kind][method].append(values)
    return {
        kind: {method: np.concatenate(values) for method, values in methods.items()}
        for kind, methods in parts.items()
    }


def wrong_neighbours(
    chosen: np.ndarray,
    bank: Split,
    queries: Split,
    reference: dict[str, tuple[np.ndarray, np.ndarray]] | None,
    embedded: dict | None,
) -> dict[str, float]:
    """What nearest neighbours of another class share with the query.

    Args:
        chosen: (M,) each query's nearest row of the bank.
        reference: of "background" and "object", the bank's and the queries' features; None: not
            known.
        embedded: description of the embedded data set, whose backgrounds are of known kinds.
    """
    wrong = np.flatnonzero(bank.labels[chosen] != queries.labels)
    numbers = {"nearest_wrong": len(wrong), "queries": len(queries.rows)}
    if reference is None:
        return numbers
    chosen = chosen[wrong]
    background, objects = (
        ranks(reference[cut][0], reference[cut][1][wrong], chosen) for cut in CUTS
    )
    numbers |= split(background, objects)
    if embedded:
        kinds, bank_kinds = (
            background_kinds(queries, embedded)[wrong],
            background_kinds(bank, embedded),
        )
        shares = share_of_kind(kinds, queries.labels[wrong], bank_kinds, bank.labels)
        numbers |= known(bank_kinds[chosen] == kinds, shares, background)
    return numbers
