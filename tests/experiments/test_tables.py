"""Rows, the gate and the text of tables, from numbers that are known."""

import json

import numpy as np
import pytest

from data.cli import UsageError
from experiments.fidelity import round_trip
from experiments.known import unpack
from experiments.results import by_seed, gather, why_not
from experiments.rows import BASE, DILO, TABLES, base_of, rows_of
from experiments.settings import embedded, flags, imagenette, imagenette64, row
from experiments.tables import cell, text
from experiments.verdict import MARGIN, difference, direction, passes
from train.__main__ import parse


def run(seed, knn, linear, untrained=None):
    found = {
        "seed": seed,
        "command": "python -m train x",
        "commit": "abc1234",
        "date": "2026-11-26",
        "measured": {"knn": knn, "linear": linear},
    }
    return found if untrained is None else found | {"untrained": {"knn": untrained, "linear": 10.0}}


def store(out, data, wanted, runs):
    for found in runs:
        folder = out / wanted.folder(data) / f"seed{found['seed']}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(found))


def test_rows_that_tables_share_are_one_folder_and_others_are_not():
    data = embedded()
    assert (
        TABLES["e3"]["grey"]
        == TABLES["e4"]["0.3"]
        == TABLES["e5"]["128"]
        == TABLES["e1"]["rbd"]
        == DILO
    )
    assert TABLES["e4"]["0"] == TABLES["e6"]["moco_v2"] == BASE
    different = {r for t in TABLES.values() for r in t.values()}
    assert len({r.folder(data) for r in different}) == len(different)
    assert DILO.folder(data) != DILO.folder(embedded(3)) != DILO.folder(imagenette(3))
    assert row("rbd", paste_p=0.5, soften_p=0.1) == row("rbd", soften_p=0.1, paste_p=0.5)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_command_line_that_the_trainer_takes(table):
    for data in (embedded(), imagenette(), imagenette64()):
        for r in rows_of(table, data.name).values():
            config = parse(
                [
                    "x",
                    "--out",
                    "y",
                    "--masks",
                    r.masks,
                    "--preset",
                    data.preset,
                    *flags(data.common),
                    *flags(r.options),
                ]
            )
            config.check()
            for name, value in r.options:
                assert value.startswith("{") or str(getattr(config, name)) == value
        assert all(
            base_of(table, label) in rows_of(table, data.name)
            for label in rows_of(table, data.name)
        )
    assert "truth" not in rows_of(table, "imagenette")


def test_a_row_counts_only_where_the_baseline_learned():
    assert passes(40.6, 25.6) and not passes(40.5, 25.6)
    base = [run(0, 40.0, 50.0, untrained=20.0), run(1, 30.0, 50.0, untrained=20.0)]
    assert why_not([run(0, 1.0, 1.0)], base) == ""  # 35 on average, 15 above
    assert "too small to tell" in why_not(base, base[1:])
    assert why_not([], base) == "not run" and why_not(base, []) == "no baseline"


def test_differences_are_paired_by_seed():
    ours = difference({0: 51.0, 1: 41.0, 7: 90.0}, {0: 50.0, 1: 38.0})
    assert (ours.mean, ours.seeds) == (2.0, 2) and ours.margin == pytest.approx(
        12.706, abs=1e-3
    )  # t of 0.975, 1
    assert ours.sign == 0 and difference({0: 51.0, 1: 41.01}, {0: 50.0, 1: 40.0}).sign == 1
    three = difference({0: 51.0, 1: 52.0, 2: 56.0}, dict.fromkeys(range(3), 50.0))
    assert (three.mean, three.sign) == (3.0, 0) and three.margin == pytest.approx(
        4.303 * 7**0.5 / 3**0.5, abs=1e-2
    )
    assert (
        difference({0: 50.0 - MARGIN - 1}, {0: 50.0}).sign == -1
        and difference({1: 50.0}, {0: 50.0}) is None
    )


def test_direction_says_what_agrees_and_what_does_not():
    said = direction(
        {
            "a": difference({0: 70.0}, {0: 50.0}),
            "b": difference({0: 70.0}, {0: 50.0}),
            "c": difference({0: 51.0}, {0: 50.0}),
            "d": None,
        },
        {"a": 2.2, "b": -13.0, "c": 1.0, "d": 1.0},
    )
    assert said == (
        "The direction agrees for a (+20.0 here, +2.2 there); it disagrees for b (+20.0 here, -13.0 "
        "there); it is too small to tell for c (+1.0 here, +1.0 there)."
    )


def test_table_has_its_numbers_the_papers_and_how_it_was_made(tmp_path):
    data = embedded()
    store(tmp_path, data, BASE, [run(0, 40.0, 50.0, 10.0), run(1, 42.0, 54.0, 10.0)])
    store(tmp_path, data, DILO, [run(0, 50.0, 60.0), run(1, 54.0, 62.0)])
    result = gather("e4", rows_of("e4", "embedded"), data, tmp_path, "python -m experiments.e4")
    told = text(result)
    assert "| 0 | 2 | 41.0 ± 1.4 | 52.0 ± 2.8 | 60.6 |" in told
    assert "| 0.3 | 2 | 52.0 ± 2.8 | 61.0 ± 1.4 | 62.8† |" in told
    assert "| 1.0 | 0 | not run | – | 47.6† |" in told
    assert "too small to tell for 0.3 (+9.0 here, +2.2 there)" in told and "second-hand" in told
    assert "`python -m experiments.e4 --seeds 2`" in told and "abc1234" in told
    assert by_seed(result["rows"]["0.3"], "linear") == {0: 60.0, 1: 62.0}
    assert cell({0: 50.0}) == "50.0" and cell({}) == "–"


def test_numbers_of_another_machine_count_as_run(tmp_path):
    data, rows = embedded(), rows_of("e4", "embedded")
    store(tmp_path / "there", data, BASE, [run(0, 40.0, 50.0, 10.0), run(1, 42.0, 54.0, 10.0)])
    store(tmp_path / "there", data, DILO, [run(0, 50.0, 60.0)])
    there = gather("e4", rows, data, tmp_path / "there", "x", {"0.3": {"MAE": 0.25}})
    known = tmp_path / "known" / "embedded"
    known.mkdir(parents=True)
    (known / "e4.json").write_text(json.dumps(there))
    store(tmp_path / "here", data, BASE, [run(0, 99.0, 99.0, 10.0)])
    assert unpack(tmp_path / "known", "e4", rows, data, tmp_path / "here") == {"0.3": {"MAE": 0.25}}
    here = gather("e4", rows, data, tmp_path / "here", "x")["rows"]
    assert by_seed(here["0"], "knn") == {0: 99.0, 1: 42.0} and by_seed(here["0.3"], "knn") == {
        0: 50.0
    }
    unpack(tmp_path / "known", "e4", rows, embedded(3), tmp_path / "other")
    assert not list((tmp_path / "other").rglob("result.json"))
    assert unpack(tmp_path / "known", "e5", rows, data, tmp_path / "here") == {}
    for broken in ("{", "[]", '{"rows": 3}'):
        (known / "e4.json").write_text(broken)
        with pytest.raises(UsageError, match="not the numbers of a table"):
            unpack(tmp_path / "known", "e4", rows, data, tmp_path / "here")


def test_a_table_whose_baseline_did_not_learn_shows_no_numbers(tmp_path):
    data = embedded()
    store(tmp_path, data, BASE, [run(0, 30.0, 50.0, 20.0)])
    store(tmp_path, data, DILO, [run(0, 77.7, 88.8)])
    told = text(gather("e2", rows_of("e2", "embedded"), data, tmp_path, "x"))
    assert (
        "88.8" not in told
        and "their kNN: none 30.0, rbd 77.7 (" in told
        and "direction" not in told
    )
    assert "kNN is 30.0, the untrained network's 20.0" in told and "15 points" in told


def test_a_table_without_runs_says_so(tmp_path):
    told = text(gather("e4", rows_of("e4", "embedded"), embedded(), tmp_path, "x"))
    assert "No row to compare with the paper yet." in told


def test_a_method_that_did_not_learn_takes_no_other_row_with_it(tmp_path):
    data, rows = embedded(), rows_of("e6", "embedded")
    for label, knn in (
        ("moco_v2", 60.0),
        ("moco_v2+dilo", 80.0),
        ("byol", 21.0),
        ("byol+dilo", 22.0),
    ):
        store(tmp_path, data, rows[label], [run(0, knn, knn, 20.0)])
    told = text(gather("e6", rows, data, tmp_path, "x"))
    assert (
        "agrees for moco_v2+dilo (+20.0 here" in told
        and "| byol | 1 | too small to tell | – |" in told
    )
    assert "their kNN: byol 21.0, byol+dilo 22.0 (" in told


def test_a_finer_mask_loses_less_and_a_flat_one_nothing():
    rng = np.random.default_rng(0)
    fine = rng.random((100, 140), np.float32)
    lost = [np.abs(round_trip(fine, side) - fine).mean() for side in (8, 32, 512)]
    assert lost[0] > lost[1] > lost[2] and round_trip(fine, 32).shape == fine.shape
    flat = np.full((100, 140), 51 / 255, np.float32)
    assert np.abs(round_trip(flat, 16) - flat).max() < 1e-6
    steps = (
        np.linspace(0, 1, 100, dtype=np.float32).repeat(100).reshape(100, 100)
    )  # only the byte is lost
    assert np.abs(round_trip(steps, 100) - steps).max() <= 0.5 / 255 + 1e-6


def test_controls_are_held_against_localization(tmp_path):
    data, rows = embedded(), rows_of("e1", "embedded")
    store(tmp_path, data, BASE, [run(0, 40.0, 50.0, 10.0)])
    for label, linear in (("rbd", 70.0), ("shuffled", 55.0), ("ellipse", 65.0)):
        store(tmp_path, data, rows[label], [run(0, 50.0, linear)])
    told = text(gather("e1", rows, data, tmp_path, "x"))
    assert "rbd has +15.0 over shuffled and +5.0 over ellipse (not told from noise)" in told
