"""The comparison of all systems in words, tables and a forest plot: known answers."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline.config import NamedRun
from pipeline.evaluate.comparison import compare_dataset
from pipeline.report import build, systems, words
from pipeline.report.data import load_dataset
from pipeline.report.plots import Bar, forest_file


@pytest.fixture(scope="module")
def compared(real, tmp_path_factory):
    """What the report reads of "lung", with the control of the masked image in the study."""
    params, paths = real
    control = NamedRun(name="Random region", learner="linear-probe", view="random")
    study = params.study.model_copy(update={"runs": (*params.study.runs, control)})
    params = params.model_copy(update={"study": study})
    before = paths.compare("lung").read_bytes()
    compare_dataset("lung", params, paths)
    data = load_dataset("lung", params, paths)
    paths.compare("lung").write_bytes(before)
    return data


@pytest.fixture
def data(compared):
    """The same, to be changed in memory."""
    data = copy.copy(compared)
    data.__dict__.pop("systems", None)
    data.compare = data.compare.copy()
    return data


@pytest.mark.promise("What is the mask's is a system minus the same with a random region or crop.")
def test_the_part_of_the_mask_is_the_difference_to_its_control(data):
    row = systems.rows_at(data, "grouped", systems.MEAN)["Masked image"]
    control = systems.rows_at(data, "grouped", systems.MEAN)["Random region"]
    assert row.control_difference == pytest.approx(row.accuracy - control.accuracy)
    (line,) = systems.mask_part([data]).rows
    assert line[0] == "Masked image − Random region"
    assert line[1].startswith(f"{100 * row.control_difference:+.1f} [")  # the known answer: better
    assert row.control_difference > 0.2


@pytest.mark.promise("The system that is recommended is picked on validation images alone.")
def test_what_to_use_is_picked_on_validation(data):
    table = data.compare
    shots = table[(table["protocol"] == "grouped") & (table["fraction"] == 1)]
    shots = shots.assign(protocol="grouped-4-shot", shots=4, n_labels=12)
    data.compare = table = pd.concat([table, shots], ignore_index=True)
    table.loc[table["name"] == "MedFocusCLIP", ["accuracy", "val_accuracy"]] = 0.4, 0.95
    few, shares = systems.advice(data)
    assert few.startswith("4 shots (12 labels): MedFocusCLIP, 40.0 %, ")
    assert shares.startswith("5\N{NO-BREAK SPACE}% to 100\N{NO-BREAK SPACE}% ")
    assert ": MedFocusCLIP, 40.0 %" in shares
    heads = systems.grid(data).headers
    assert "4 shots (12)" in heads and heads.index("4 shots (12)") == 7
    table.loc[table["kind"] == "control", "val_accuracy"] = 1.0  # no control is recommended
    table.loc[table["name"] == "Whole image", "val_accuracy"] = 0.99
    of_one_seed = table["name"] == "Masked image"
    table.loc[of_one_seed, ["n_seeds", "val_accuracy"]] = 1, 1.0  # nor what has fewer seeds
    del data.systems
    assert systems.advice(data)[0].endswith("the baseline itself.")


@pytest.mark.promise("The page says on how many data sets the mask earns its place, and where not.")
@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ([0.03, 0.01, 0.02, -0.01], "earns its place"),
        ([0.03, 0.01, -0.02, -0.01], "does not earn its place"),  # on half of them only
    ],
)
def test_whether_the_mask_earns_its_place(gaps, said):
    rows = [
        SimpleNamespace(
            dataset=f"set{i}", name="Whole and crop", accuracy=0.7 + gap, baseline_accuracy=0.7,
            difference=gap, lo=gap - 0.015, hi=gap + 0.015, p_holm=0.01,
            verdict="better" if gap > 0.015 else "no difference", control_difference=0.004,
            control_verdict="better" if i == 1 else "no difference",
        )
        for i, gap in enumerate(gaps)
    ]  # fmt: skip
    first, fails, control, *each = words.target(rows, "Whole image")
    wins, sure = sum(g > 0 for g in gaps), sum(g > 0.015 for g in gaps)
    assert said in first and f"on {wins} of 4 data sets" in first
    assert f"correction on {sure} (set0" in first
    assert fails.startswith("It fails on set") and "set3 (−1.0 points)" in fails
    assert "+3.0 [+1.5, +4.5] points" in each[0] and "random regions, is +0.4" in each[0]
    assert "worse beyond chance on 1 (set1)" in control
    unsure = [SimpleNamespace(**vars(r) | {"verdict": "no difference"}) for r in rows]
    assert "does not earn" in words.target(unsure, "Whole image")[0]


@pytest.mark.promise("The forest plot fills the marks beyond chance after Holm's correction.")
def test_the_forest_plot_has_every_system_and_its_verdict(data):
    bars = systems.bars(data)
    rows = systems.rows_at(data, "grouped", systems.MEAN)
    assert {n: b.difference for n, b in bars.items()} == {
        n: r.best_difference for n, r in rows.items() if r.best_name
    }
    panels = {d: {"x & y": Bar(0.1, 0.05, 0.2, v)} for d, v in (("a", "better"), ("b", "too few"))}
    svg = forest_file(panels)
    assert svg == forest_file(panels) and not re.search(r"\d{4}-\d\d-\d\d", svg)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"a", "b", "x &amp; y", "better beyond chance", "no difference"} <= set(texts)
    assert "x &amp; y" in forest_file({"b": panels["b"]})


@pytest.mark.promise("An ablation is shown when it was run, next to whole images.")
def test_ablations_are_shown_when_they_were_run(data, tmp_path):
    named = {table.caption: table for table in systems.ablations([data])}
    assert set(named) == {"True masks and random regions"}  # no mask alone, no other fill
    rows = systems.rows_at(data, "grouped_truth", systems.MEAN)
    cells = named["True masks and random regions"].rows
    assert [cell.split(" ")[0] for _, cell in cells] == [
        f"{100 * rows[name].accuracy:.1f}"
        for name in ("Whole image", "Masked image", "Random region")
    ]
    data.paths = type(data.paths)(tmp_path)
    data.paths.ablations.parent.mkdir()
    row = data.systems.query("name == 'Masked image' and fraction == -1").head(1)
    table = row.assign(ablation="Fill", variant="blur")
    table.to_csv(data.paths.ablations, index=False)
    *_, fill = systems.ablations([data])
    assert fill.caption == "Fill" and fill.rows[0][0] == "blur (Masked image)"


def test_the_page_has_the_comparison_or_names_the_command(compared, data):
    part = build.part(compared)
    assert part["systems"].rows and len(part["advice"]) == 1 and "<svg" in part["forest"]
    data.compare = None
    assert build.part(data)["systems"] is None
