"""Result pages of projects made for one question: other parameters or sets, phantoms."""

from __future__ import annotations

import pytest
from make_inputs import project

from pipeline.report.paper import OTHER_SET
from pipeline.report.results import write_results


def test_the_page_names_the_table_that_it_quotes_and_warns_where_the_set_is_another(tmp_path):
    names = ("brain", "lung")
    params, paths = project(tmp_path, *names, synthetic="0", per_class=6)
    write_results(params, paths, names)
    pages = {name: (paths.results / f"{name}.md").read_text(encoding="utf-8") for name in names}
    for name, number in (("brain", "III"), ("lung", "II")):
        assert f"## Beside the paper (quoted from its table {number})" in pages[name]
    beside = {name: page.split("## Beside the paper")[1] for name, page in pages.items()}
    assert OTHER_SET["lung"] in beside["lung"].split("|")[0]
    assert "is not this one" not in beside["brain"]


def test_pages_of_a_part_or_of_more_than_params_yaml_name_the_command_that_was_given(fresh):
    params, paths = fresh
    asked = "pipeline results --dataset one"
    params = params.model_copy(update={"datasets": ("brain",)})
    write_results(params, paths, ["one"])
    page, readme = (
        (paths.results / f"{name}.md").read_text(encoding="utf-8") for name in ("one", "README")
    )
    assert all(f"Made by `{asked}`, at" in text and "dvc" not in text for text in (page, readme))
    again = readme.split("```sh")[1].split("```")[0]
    assert again.endswith(f"done\n{asked}\n") and "for name in brain one; do" in again


@pytest.mark.parametrize("part", [0.2, 0.35])
def test_pages_state_the_size_of_the_validation_part_of_the_parameters(fresh, part):
    params, paths = fresh
    splits = params.splits.model_copy(update={"val": part})
    write_results(params.model_copy(update={"splits": splits}), paths)
    page = (paths.results / "one.md").read_text(encoding="utf-8")
    assert f"out of the same labels: {100 * part:.0f} % of them" in page


def test_synthetic_results_are_labelled_on_every_page(fresh):
    for file in write_results(*fresh):
        if file.suffix == ".md":
            assert "Synthetic data" in file.read_text(encoding="utf-8")
