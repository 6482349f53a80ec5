"""Rows, the gate, significance and the text of tables, from numbers that are known."""

import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

from experiments import gpu
from experiments.__main__ import main
from experiments.rows import BASE, DILO, TABLES, base_of, choose, method_flags, row, rows_of
from experiments.runner import Study, run_row, unpack
from experiments.table import by_seed, cell, gather, markdown, significant, why_not
from tests.conftest import call, refused
from train.command import parse

ABOUT = {"command": "x", "commit": "abc1234", "date": "2026-11-26", "machine": "m"}


def run(seed, knn, linear, untrained=None):
    result = {**ABOUT, "seed": seed, "measured": {"knn": knn, "linear": linear}}
    return result if untrained is None else result | {"untrained": {"knn": untrained}}


def study(out, table="e4", runs=None):
    new = Study(table, choose("embedded"), out)
    for label, results in (runs or {}).items():
        for result in results:
            file = new.file(label, result["seed"])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result))
    return new


def test_rows_that_tables_share_are_one_folder_and_others_are_not():
    data = choose("embedded")
    tables = {table: rows_of(table, "embedded") for table in TABLES}
    shared = [tables[t][label] for t, label in (("e1", "rbd"), ("e4", "0.3"), ("e5", "128"))]
    assert shared == [DILO] * 3 and tables["e4"]["0"] == tables["e6"]["simclr"] == BASE
    assert rows_of("e6", "imagenette64")["moco_v2"] == BASE  # its own method
    different = {r for rows in tables.values() for r in rows.values()}
    assert len({r.folder(data) for r in different}) == len(different)
    others = {DILO.folder(choose(name, 3)) for name in ("embedded", "imagenette", "imagenette64")}
    assert len(others | {DILO.folder(data)}) == 4
    assert row("rbd", paste_p=0.5, soften_p=0.1) == row("rbd", soften_p=0.1, paste_p=0.5)


@pytest.mark.parametrize("name", ["embedded", "imagenette", *gpu.BASES])
@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_command_line_that_the_trainer_takes(table, name, monkeypatch):
    monkeypatch.setenv("DILO_SHARED", "/my data")
    data = choose(name)
    for label, one in rows_of(table, name).items():
        options = [*method_flags(data, one), "--masks", one.masks]
        parse(["x", "--out", "y", "--preset", data.preset, *options]).check()
        assert base_of(table, label) in rows_of(table, name)
        assert label != "texture" or "/my data/data/dtd" in options  # a blank splits nothing
    assert ("truth" in rows_of(table, name)) == (table == "e1" and name == "embedded")


def test_a_row_counts_where_its_baseline_learned_and_significance_is_the_paired_t_test():
    base = [run(0, 40.0, 50.0, untrained=20.0), run(1, 30.0, 50.0, untrained=20.0)]
    assert why_not([run(0, 1.0, 1.0)], base) == ""  # 35 on average, 15 above
    assert "learned too little" in why_not(base, base[1:])
    assert why_not([], base) == "not run" and why_not(base, []) == "no baseline"
    rng = np.random.default_rng(0)
    for gain in (0.0, 1.0, 2.0, 4.0):
        ours, base = rng.normal(gain, 1, 5), rng.normal(0, 1, 5)
        expected = ttest_rel(ours, base).pvalue < 0.05
        rows = dict(enumerate(ours)) | {9: 1e9}  # a seed that the baseline lacks
        assert significant(rows, dict(enumerate(base))) == expected
    assert not significant({0: 9.0}, {0: 1.0}) and not significant({0: 9.0}, {1: 1.0})
    assert not significant({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})


def test_table_has_its_numbers_the_papers_and_how_it_was_made(tmp_path):
    runs = {"0": [run(0, 40.0, 50.0, 10.0), run(1, 42.0, 54.0, 10.0)]}
    new = study(tmp_path, runs=runs | {"0.3": [run(0, 50.0, 60.0), run(1, 52.1, 62.0)]})
    text = markdown(gather(new, "python -m experiments x", {}))
    assert "| 0 | 2 | 41.0 ± 1.4 | 52.0 ± 2.8 | 60.6 |" in text
    assert "| 0.3 | 2 | 51.0 ± 1.5 \\* | 61.0 ± 1.4 | 62.8† |" in text
    assert "| 1.0 | 0 | not run | – | 47.6† |" in text
    assert "`python -m experiments x --seeds 2`, 2026-11-26, m, commit abc1234" in text
    assert "paired t test" in text and "† second-hand" in text and "‡" not in text
    assert by_seed(gather(new, "x", {})["rows"]["0.3"], "linear") == {0: 60.0, 1: 62.0}
    assert cell({0: 50.0}) == "50.0" and cell({}) == "–"
    # a method that did not learn takes no other row with it
    numbers = {"moco_v2": 60.0, "moco_v2+dilo": 80.0, "byol": 21.0, "byol+dilo": 22.0}
    runs = {label: [run(0, knn, knn, 20.0)] for label, knn in numbers.items()}
    text = markdown(gather(study(tmp_path, "e6", runs), "x", {}))
    assert "| moco_v2+dilo | 1 | 80.0 | 80.0 | 69.2† |" in text
    assert "| byol+dilo | 1 | (22.0) | – | – |" in text and "15 points above" in text


def test_numbers_of_another_machine_count_as_run_and_none_is_lost(tmp_path, capsys):
    runs = {"0": [run(s, 40.0 + s, 50.0, 10.0) for s in (0, 1)], "0.3": [run(0, 50.0, 60.0)]}
    there = gather(study(tmp_path / "there", runs=runs), "x", {"0.3": {"MAE": 0.25}})
    known, page = tmp_path / "known" / "embedded" / "e4.json", tmp_path / "results.md"
    known.parent.mkdir(parents=True)
    known.write_text(json.dumps(there))
    here = study(tmp_path / "out" / "embedded", runs={"0": [run(0, 99.0, 99.0, 10.0)]})
    page.write_text("a\n<!-- e4-embedded:begin -->\n<!-- e4-embedded:end -->\nb\n")
    options = ("e4", "--seeds", 0, "--readme", page)
    known_too = ("--known", tmp_path / "known", "--out", tmp_path / "out")
    call(main, *options, *known_too)  # the table of what there is, without any images
    assert "| 0.3 | 1 | 0.250 | 50.0 | 60.0 | 62.8† |" in page.read_text()
    rows = json.loads(known.read_text())["rows"]
    assert by_seed(rows["0"], "knn") == {0: 99.0, 1: 41.0}  # what is here stays
    before = known.read_text(), page.read_text()
    assert "_demo, 14 epochs " in refused(call, main, *options, *known_too, "--epochs", 3)
    call(main, *options, "--out", tmp_path / "new")  # a table without runs
    assert "stays, its table has more runs of 0, 0.3" in capsys.readouterr().err
    assert (known.read_text(), page.read_text()) == before
    for content in ("{", "[]", '{"rows": 3}'):
        known.write_text(content)
        assert "not the numbers of a table" in refused(unpack, tmp_path / "known", here)


def test_a_damaged_file_of_numbers_is_one_line(tmp_path):
    new = study(tmp_path, runs={"0": [run(0, 40.0, 50.0, 10.0)]})
    file = new.file("0", 0)
    for broken in ("{", "[]", '{"seed": 0, "measured": {}}', '{"seed": 0, "measured": 3}'):
        file.write_text(broken)
        for read in ((new.results, "0"), (run_row, new, "0", 0)):
            assert f"{file}: damaged; delete it" in refused(*read)


def test_a_gpu_is_needed_and_its_minutes_end_what_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "no GPU that torch can use here" in refused(call, gpu.main)
    call(gpu.main, "--device", "cpu", "--minutes", "1e-9", "--out", tmp_path)
    assert "base: not all is run, --minutes are over" in capfd.readouterr().out
    assert not list(tmp_path.rglob("*.json"))


def test_bad_options_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DILO_SHARED", str(tmp_path))
    cases = {options: options for options in ("--rows cat", "--epochs 0", "--seeds -1")}
    for options, message in (cases | {"--data imagenette": "set DILO_SHARED"}).items():
        assert message in refused(call, main, "e4", *options.split(), "--out", tmp_path)
    # a row that cannot be run stops nothing
    assert run_row(Study("e3", choose("embedded"), tmp_path), "texture", 0) is None
    assert "is missing; set DILO_SHARED" in capsys.readouterr().out
