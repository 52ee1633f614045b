"""The result pages: figures equal to the tables they come from, answers generated."""

from __future__ import annotations

import os
import re

import pandas as pd
import pytest
from make_inputs import REPO, project, restamp

from pipeline.io import sha256_file
from pipeline.report import select
from pipeline.report.results import write_results

COMPARISONS = "_comparisons.csv.gz"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    params, paths = project(tmp_path_factory.mktemp("results"), "brain", "two", synthetic="0")
    params = params.model_copy(update={"datasets": ("brain", "two", "not yet")})
    return paths, write_results(params, paths, ["brain", "two", "not yet"])


def test_each_dataset_has_a_page_and_a_table_and_the_readme_names_what_is_missing(written):
    paths, files = written
    names = [str(f.relative_to(paths.results)) for f in files]
    of = [f"{name}{end}" for name in ("brain", "two") for end in (".md", ".csv.gz", COMPARISONS)]
    assert names == [*of, "README.md"]
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    assert "pipeline evaluate --dataset not yet" in readme


def test_every_comparison_is_in_the_file_beside_the_page(written):
    paths, _ = written
    ours = pd.read_csv(paths.results / f"brain{COMPARISONS}")
    pd.testing.assert_frame_equal(ours, pd.read_csv(paths.plots("brain") / "comparisons.csv"))


def test_the_table_holds_every_row_of_the_metrics_with_the_same_values(written):
    paths, _ = written
    ours = pd.read_csv(paths.results / "brain.csv.gz", dtype={"seed": str})
    source = pd.read_parquet(paths.metrics_table("brain"))
    assert len(ours) == len(source)
    key = ["protocol", "subset", "head", "view", "fraction", "seed", "metric"]
    source["seed"] = source["seed"].astype(str).replace("-1", "all")
    source["fraction"] = source["fraction"].astype(float).round(4)
    both = ours.merge(source, on=key, suffixes=("", "_source"))
    assert len(both) == len(source)
    for column in ("value", "lo", "hi", "t_lo", "t_hi"):
        theirs = both[f"{column}_source"].to_numpy()
        assert both[column].to_numpy() == pytest.approx(theirs, abs=1e-5, nan_ok=True), column
    assert both.loc[both["seed"] == "all", "t_lo"].notna().all()


def test_quoted_figures_stand_only_in_their_own_columns_beside_the_published_split(written):
    paths, _ = written
    table = pd.read_csv(paths.results / "brain.csv.gz")
    quoted = table.dropna(subset=["quoted_MedFocusCLIP"])
    assert sorted(quoted["quoted_MedFocusCLIP"]) == [0.8609, 0.9491, 0.9757]
    assert set(quoted["protocol"]) == {"official"}
    assert set(quoted["subset"]) == {"full"}
    assert set(quoted["seed"]) == {"all"}


def test_the_answers_carry_intervals_and_questions(written):
    paths, _ = written
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    for question in ("Does masking help", "How much of the figures survives", "Which baseline"):
        assert question in readme
    assert "points [" in readme
    assert "The paper reports (quoted, single runs) 97.57 % with all labels" in readme


def test_pages_say_the_parameters_and_the_command_that_made_them(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8")
    assert "Made by `dvc repro && dvc repro results/dvc.yaml`" in page
    assert "lambda: 0.5" in page


def test_pages_say_what_the_plan_of_the_splits_left_out(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8")
    assert "\n- As published: 5 images without a split take no part.\n" in page
    assert "\n- With ground truth: without the class 'omega'.\n" in page
    for text in (page, (paths.results / "README.md").read_text(encoding="utf-8")):
        assert "“As published” is without some images of brain (5 images without" in text


def test_pages_say_which_manifest_and_how_to_make_them_again(written):
    paths, _ = written
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    again = readme.split("## Making these results again")[1]
    for name in ("brain", "two"):
        digest = sha256_file(paths.manifest(name))
        page = (paths.results / f"{name}.md").read_text(encoding="utf-8")
        assert digest in page.split("\n\n")[1]
        assert f"`data_manifests/{name}.csv` | `{digest}` |" in again
        assert f"pipeline data add {name} --from FOLDER" in again
    assert "docs/benchmarks.md" in again and "dvc repro && dvc repro results/dvc.yaml" in again


def test_pages_say_how_many_of_the_labels_are_for_validation(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8")
    runs = pd.read_parquet(paths.runs("brain"))
    labels = (runs["n_train"] + runs["n_val"]).groupby(runs["fraction"]).median()
    manifest = pd.read_csv(paths.manifest("brain"))
    assert labels[1.0] == (manifest["split"] == "train").sum()
    shown = re.findall(r"\b(\d+) % \(([\d,]+) labels?\)", page)
    assert {int(share) for share, _ in shown} == {round(100 * f) for f in labels.index if f}
    for share, number in shown:
        assert int(number.replace(",", "")) == labels[int(share) / 100]
    assert "(validation). The latter are taken out of the same labels: 20 % of them" in page


def test_no_table_has_an_empty_column_a_ragged_row_or_a_number_that_is_none(written):
    _, files = written
    for page in (f for f in files if f.suffix == ".md"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"\b(nan|NaN|None|inf)\b", text.split("## Parameters")[0])
        tables = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
        assert len(tables) >= 5
        for table in tables:
            rows = [line.strip("|").split(" | ") for line in table.strip().splitlines()]
            header, _, *body = rows
            assert all(len(row) == len(header) for row in body), header
            for column, name in enumerate(header):
                if "ours" not in name:  # only the two shares that were run are beside the paper
                    assert {row[column].strip() for row in body} != {"–"}, (page.name, name)


def test_names_of_the_tables_inside_do_not_reach_a_reader(written):
    _, files = written
    for page in (f for f in files if f.suffix == ".md"):
        text = page.read_text(encoding="utf-8").split("## Parameters")[0]
        assert not re.search(r"clean_any|ground_truth|grouped-pooled|linear-probe|p_holm", text)


def test_every_comparison_stands_on_the_page_of_its_dataset_and_not_in_the_readme(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8").split("## Paired")[1]
    table = pd.read_csv(paths.plots("brain") / "comparisons.csv")
    rows = table[(table["head_a"] == "linear-probe") & (table["view_a"] == "masked")]
    assert len(rows)
    for row in rows.to_dict("records"):
        assert f"{100 * row['difference']:+.1f}".replace("-", "−") + " [" in page
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    assert len(readme) < 20_000 and readme.count("\n- ") < 15


def rows_of(text: str, header: str) -> list[list[str]]:
    """The cells of the first table whose header line begins with `header`."""
    lines = iter(text[text.index(f"| {header} |") :].splitlines()[2:])
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return table


def test_the_calibration_table_has_the_interval_of_every_head_and_view_with_all_labels(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8")
    rows = rows_of(page, "split | head | view | Calibration error (ECE)")
    metrics = pd.read_parquet(paths.metrics_table("brain"))
    metrics = metrics[(metrics["seed"] == -1) & (metrics["subset"] == "full")]
    metrics = metrics[metrics["protocol"].isin(["official", "grouped"])]
    at_end = metrics[(metrics["fraction"] == 1) | (metrics["head"] == "zero-shot")]
    assert len(rows) == len(at_end[["protocol", "head", "view"]].drop_duplicates())
    figures = at_end.set_index(["protocol", "head", "view", "metric"])
    where = {"as published": "official", "grouped": "grouped"}
    heads = {words: name for name, words in select.HEADS.items()}
    views = {words: name for name, words in select.VIEWS.items()}
    for split, head, view, *shown in rows:
        for metric, cell in zip(("ece", "brier", "macro_auroc"), shown, strict=True):
            one = figures.loc[(where[split], heads[head], views[view], metric)]
            assert cell == f"{one['value']:.3f} [{one['lo']:.3f}, {one['hi']:.3f}]"


def test_every_seed_stands_on_the_page_and_a_diverged_one_is_named_with_its_reason(written):
    paths, _ = written
    page = (paths.results / "brain.md").read_text(encoding="utf-8")
    metrics = pd.read_parquet(paths.metrics_table("brain"))
    of_seed = metrics[(metrics["metric"] == "accuracy") & (metrics["seed"] >= 0)]
    for words, protocol in (("As published", "official"), ("Grouped", "grouped")):
        part = page.split(f"## {words}")[1].split("\n## ")[0].split("every seed")[1]
        rows = rows_of(part, "head | view | 5 % | 20 % | 100 %")
        here = of_seed[(of_seed["protocol"] == protocol) & (of_seed["subset"] == "full")]
        here = here[here["head"] != "zero-shot"]
        shown = re.findall(
            r"\d+\.\d", " ".join(c for row in rows for c in row if row[0] != "zero-shot")
        )
        expected = [f"{100 * v:.1f}" for v in here["value"]]
        assert sorted(shown) == sorted(expected)
        broken = [cell for row in rows for cell in row if "diverged" in cell]
        assert len(broken) == (protocol == "official")
        assert all(re.fullmatch(r"\d+\.\d · \*\*diverged\*\*", cell) for cell in broken)
    runs = pd.read_parquet(paths.runs("brain"))
    assert f"1 of {len(runs)} runs failed or diverged." in page
    assert "loss is not finite after epoch 3" in page


def test_the_readme_says_with_intervals_whether_crop_and_mask_alone_differ_from_whole(written):
    paths, _ = written
    readme = (paths.results / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(paths.plots("brain") / "comparisons.csv")
    table = table[(table["protocol"] == "official") & (table["view_b"] == "whole")]
    for view, words in (("crop", "cropping to the mask"), ("binary", "the mask alone")):
        said = readme.split("**brain.**")[1].split(f"Against whole images {words}")[1]
        rows = table[(table["view_a"] == view) & table["fraction"].isin([0.05, 1.0])]
        assert len(rows) == 2
        for row in rows.itertuples():
            lo, hi = (f"{100 * v:+.1f}".replace("-", "−") for v in (row.lo, row.hi))
            assert f"points [{lo}, {hi}]" in said.split("\n")[0]
    assert "**Another view of the masks helps" in readme or "**The other views of" in readme
    rows = rows_of(readme, "data set | split | crop − whole, 5 % | crop − whole, 100 %")
    assert [row[0] for row in rows] == ["brain", "brain", "two", "two"]


def test_writing_twice_gives_the_same_bytes(written):
    from pipeline.config import load_params

    paths, files = written
    before = [f.read_bytes() for f in files]
    params = load_params(REPO / "params.yaml", {"report.gallery": 6})
    params = params.model_copy(update={"datasets": ("brain", "two", "not yet")})
    again = write_results(params, paths, ["brain", "two", "not yet"])
    assert [f.read_bytes() for f in again] == before
    # Nor do they name this process, whose temporary files they were: another's must be the same.
    assert not any(str(os.getpid()).encode() in f.read_bytes()[:64] for f in again)


def test_writing_the_pages_of_one_dataset_leaves_the_others_in_the_readme(written):
    from pipeline.config import load_params

    paths, _ = written
    before = (paths.results / "README.md").read_text(encoding="utf-8")
    params = load_params(REPO / "params.yaml", {"report.gallery": 6})
    params = params.model_copy(update={"datasets": ("brain", "two", "not yet")})
    again = write_results(params, paths, ["two"])
    assert {f.name.split(".")[0] for f in again} == {"two", "two_comparisons", "README"}
    readme = (paths.results / "README.md").read_text(encoding="utf-8")

    def told(text: str) -> str:  # all but how it was made
        return text.partition(", at commit")[2].partition("## Making these")[0]

    assert told(readme) == told(before) and "Made by `pipeline results --dataset two`" in readme


def test_a_run_that_left_no_figure_at_all_is_in_the_table_of_seeds(fresh):
    params, paths = fresh
    runs = pd.read_parquet(paths.runs("one"))
    lost = (runs["head"] == "linear-probe") & (runs["view"] == "crop") & (runs["seed"] == 0)
    runs.loc[lost, ["status", "error"]] = ["failed", "out of memory"]
    runs.to_parquet(paths.runs("one"))
    metrics = pd.read_parquet(paths.metrics_table("one"))
    gone = (metrics["head"] == "linear-probe") & (metrics["view"] == "crop")
    restamp(paths, "one", metrics[~gone])
    write_results(params, paths, ["one"])
    page = (paths.results / "one.md").read_text(encoding="utf-8")
    rows = rows_of(page.split("every seed")[1], "head | view | 5 % | 20 % | 100 %")
    crop = next(row for row in rows if row[:2] == ["linear probe", "cropped to the mask"])
    assert crop[2:] == ["**failed** · –"] * 3
