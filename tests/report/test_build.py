"""What stands on the page, and what happens when inputs are missing, odd or real."""

from __future__ import annotations

import re
import subprocess

import pandas as pd
import pytest
from make_inputs import make_dataset, project, restamp

from pipeline.report.build import build_report
from pipeline.report.paper import paper_tables, quoted
from pipeline.report.results import write_results
from pipeline.report.sections.reproduce import git_commit


def text_of(params, paths, *names) -> str:
    return build_report(params, paths, list(names) or None).read_text(encoding="utf-8")


def test_how_sure_intervals_are_is_a_parameter_everywhere(fresh):
    params, paths = fresh
    evaluate = params.evaluate.model_copy(update={"confidence": 0.9})
    params = params.model_copy(update={"evaluate": evaluate})
    pages = [build_report(params, paths), *write_results(params, paths)]
    said = [p.read_text(encoding="utf-8") for p in pages if p.suffix in (".html", ".md")]
    assert len(said) == 3
    for text in said:
        assert "95 %" not in text
        assert text.count("90 % interval") >= 5


def test_two_builds_of_the_same_files_are_the_same_bytes(fresh, html):
    assert text_of(*fresh) == html


def test_a_dataset_without_any_file_says_which_commands_make_them(fresh):
    params, paths = fresh
    html = text_of(params, paths, "one", "nothing here")
    for command in ("segment", "encode", "train", "evaluate"):
        assert f"pipeline {command} --dataset nothing here" in html


@pytest.mark.parametrize(
    "lost",
    ["metrics_table", "predictions", "runs", "mask_quality", "audit", "audit_pairs", "manifest"],
)
def test_a_report_is_made_when_one_file_is_missing(fresh, lost):
    params, paths = fresh
    getattr(paths, lost)("one").unlink()
    html = text_of(params, paths)
    assert "<h2" in html
    # Without an audit no split can be said to keep copies together; without metrics none is shown.
    claims = re.findall("no patient, (?:known )?group or copy|patients, groups and copies", html)
    assert (not claims) == (lost in ("audit", "metrics_table"))
    assert (html.count("copies were not looked for") >= 5) == (lost == "audit")


def test_a_damaged_table_is_named_and_the_rest_is_shown(fresh):
    params, paths = fresh
    paths.runs("one").write_bytes(b"not parquet")
    html = text_of(params, paths)
    assert "cache/one/runs.parquet" in html.replace("\\", "/")
    assert "Accuracy and the number of labels" in html


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> str:
    """The page of a set whose names look like markup, numbers and gaps."""
    classes = ("<script>alert(1)</script>", "x&y", "007", "NA", "1e5")
    root = tmp_path_factory.mktemp("odd")
    params, paths = project(
        root, "a<b>&c", classes=classes, per_class=6, seeds=1, fractions=(0.2, 1.0)
    )
    return text_of(params, paths)


def test_names_with_markup_are_shown_as_text(odd):
    assert "<script>alert(1)" not in odd
    assert "&lt;script&gt;alert(1)" in odd
    assert "<b>&c" not in odd


def test_class_names_that_look_like_numbers_or_gaps_stay_as_they_are(odd):
    for name in ("called 007", "called NA", "called 1e5"):
        assert f'<th scope="col">{name}</th>' in odd


def test_diverged_runs_stand_in_the_tables_with_their_reason(html):
    assert "1 of 115 runs failed or diverged" in html
    assert "loss is not finite after epoch 3" in html
    hint = 'tabindex="0" title="loss is not finite after epoch 3"'
    assert f'<td class="bad" {hint}>diverged</td>' in html


def test_failed_images_are_listed_by_name_and_reason(html):
    assert "train/alpha/001.png" in html
    assert "truncated file" in html


def test_an_image_that_cannot_be_read_leaves_its_reason_in_its_place(fresh):
    params, paths = fresh
    for file in paths.data("one").glob("test/alpha/*.png"):
        file.write_bytes(b"broken")
    assert "cannot be shown" in text_of(params, paths)


def test_missing_figures_are_dashes_not_zeros(fresh):
    params, paths = fresh
    table = pd.read_parquet(paths.metrics_table("one"))
    gone = (table["head"] == "medfocus") & (table["metric"] == "accuracy")
    table.loc[gone, ["value", "lo", "hi"]] = float("nan")
    restamp(paths, "one", table)
    html = text_of(params, paths)
    body = re.sub(r'"data:[^"]*"', "", html.split("</style>")[1].split("<script>")[0])
    assert not re.search(r"\bnan\b(?!\))", body, re.IGNORECASE)


def test_quoted_figures_are_the_papers_to_the_last_digit():
    assert quoted("brain")["MedFocusCLIP"] == pytest.approx(
        {0.05: 0.8609, 0.1: 0.9212, 0.2: 0.9491, 0.5: 0.9628, 1.0: 0.9757}
    )
    assert len(paper_tables()) == 32


def test_the_paper_stands_beside_real_sets_in_labelled_columns_and_lung_is_called_another_set(
    tmp_path,
):
    params, paths = project(tmp_path, "lung", synthetic="0", per_class=6, seeds=1)
    html = text_of(params, paths)
    assert html.count('<th scope="col" class="quoted number">quoted, ') == 5
    assert "MedFocusCLIP (quoted)" in html
    assert "The paper&#39;s lung set is not this one" in html
    assert "Synthetic data" not in html.split("</style>")[1]


def test_the_papers_figures_are_never_set_beside_phantoms(tmp_path):
    params, paths = project(tmp_path, "brain", synthetic="1", per_class=6, seeds=1)
    html = text_of(params, paths)
    assert "97.57" not in html


def test_the_number_of_labels_stands_beside_each_fraction(html):
    assert "100 % (24 labels)" in html


def test_the_page_carries_parameters_commit_and_command(html):
    assert "pipeline report --dataset one" in html
    assert "lambda: 0.5" in html
    assert "git commit" in html


def test_a_dataset_with_one_seed_two_classes_and_few_images_is_reported(tmp_path):
    params, paths = project(tmp_path)
    make_dataset(paths, "tiny", classes=("a", "b"), per_class=3, seeds=1)
    assert "tiny" in text_of(params, paths, "tiny")


def test_the_commit_is_marked_when_what_decides_figures_differs_and_for_nothing_else(tmp_path):
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *who, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) == "not in a git checkout"
    deciding = ("pipeline/a.py", "stages/b.py", "params.yaml", "dvc.yaml")
    deciding += ("data_manifests/prompts.yaml",)
    files = [tmp_path / name for name in (*deciding, "dvc.lock", "results/README.md")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    for file in files:
        file.write_text("2")
        marked = file.relative_to(tmp_path).as_posix() in deciding
        assert git_commit(tmp_path) == git("rev-parse", "HEAD") + ", with local changes" * marked
        file.write_text("1")
