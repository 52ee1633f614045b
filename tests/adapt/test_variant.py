"""A variant of the masks: bound to a split, encoded and trained on by name, refused if it leaks."""

from __future__ import annotations

import os
import signal
from itertools import chain

import numpy as np
import pandas as pd
import pytest

from pipeline.adapt import adapt_dataset
from pipeline.adapt.adapt import choose, corrected, default_name
from pipeline.adapt.files import read_about
from pipeline.encode.encode import encode_dataset, parts_of_variant
from pipeline.engine.options import RunOptions
from pipeline.engine.run import image_items
from pipeline.errors import ConfigError, ImageError, ManifestError, PipelineError, StoreError
from pipeline.evaluate.comparison import compare_dataset
from pipeline.evaluate.mask_quality import mask_quality
from pipeline.evaluate.predictions import read_runs
from pipeline.io import csv_text, sha256_file
from pipeline.learners.choose import choose_run
from pipeline.learners.train import train_dataset
from pipeline.manifest import read_manifest
from pipeline.predict import predict_images
from pipeline.report.masks import RANDOM, STORED, TRUTH, masks_of, with_earlier, write_masks
from pipeline.segment.segment import segment_dataset
from pipeline.splits import SplitPlan, load_split_plan
from pipeline.store import MaskRow, MaskStoreWriter, open_features, open_masks
from tests import warm
from tests.encode.conftest import small_clip
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene, untrained

SMALL = {
    **{"adapt__method": "decoder", "adapt__shots": 4, "adapt__steps": 3, "adapt__batch_size": 2},
    **{"splits__folds": 2, "splits__fractions": [0.5], "train__seeds": [0, 1]},
    "train__views": {
        "official": ["whole", "masked@reviewed"],
        "grouped": ["whole", "whole+masked@decoder-4", "whole+labels@decoder-4", "masked@reviewed"],
    },
    **{"learners": {"linear-probe": {"c_steps": 2}}, "encode__views": ["whole", "masked"]},
}
QUIET = RunOptions(progress=False, workers=1)


def make(root, n: int = 24) -> Project:
    """Bright ellipses with ground truth, two of each patient."""
    made = Project(root)
    for i in range(n):
        image, region = scene(i, 40, 48)
        label = "cat" if i % 4 < 2 else "dog"
        made.add(f"{i:02}.png", image, region, label=label, split="", patient_id=f"p{i // 2}")
    return made


def adapt(project: Project, **changed):
    variant, load = changed.pop("variant", ""), changed.pop("load", untrained)
    params = project.params(**SMALL | changed)
    return adapt_dataset(DATASET, params, project.paths, QUIET, variant=variant, load=load)


def correct(project: Project, corrected: set[str]) -> None:
    """Write the variant `reviewed` of the masks: everywhere a square, some of them by a person."""
    path = project.paths.masks(DATASET, "reviewed/all")
    attrs = {"dataset": DATASET}
    with MaskStoreWriter(path, {"stage": "review"}, on_mismatch="rebuild", attrs=attrs) as writer:
        table = pd.DataFrame(project.rows)
        writer.sync_manifest(table)
        for item, _ in writer.plan(image_items(table, project.paths.data(DATASET))).todo:
            mask = np.zeros((40, 48), bool)
            mask[10:20, 10:20] = item.image_id != "03.png"
            said = "reviewed: accepted" if item.image_id in corrected else "grid 8"
            status = "ok" if mask.any() else "empty"
            writer.write([item], [MaskRow(item.image_id, mask, status, said)])
        writer.finish()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with masks, a variant of them, and features of both."""
    made = make(tmp_path_factory.mktemp("adapt"))
    params = made.params(**SMALL)
    segment_dataset(DATASET, params, made.paths, QUIET, predictor=untrained())
    made.first = adapt(made)
    correct(made, {row["image_id"] for row in made.rows[:12]})
    parts = (parts_of_variant(DATASET, v, made.paths) for v in ("decoder-4", "reviewed"))
    for variant in ("", *chain(*parts)):
        encode_dataset(DATASET, params, made.paths, QUIET, clip=small_clip(), variant=variant)
    return made


@pytest.mark.promise(
    "No adapter learns from an image whose patient, group or copy is in the part it is for."
)
def test_each_fold_has_an_adapter_of_other_patients_and_masks_of_all_images(project):
    record = project.first.record
    assert (record.done, record.status, record.total) == (2, "ok", 2)
    assert {part: n for part, (n, _) in project.first.dice.items()} == {"0": 12, "1": 12}
    patient = {row["image_id"]: row["patient_id"] for row in project.rows}
    for part, other in ("01", "10"):
        path = project.paths.adapter(DATASET, "decoder-4") / f"{part}.safetensors"
        about = read_about(path)
        assert len(about["images"]) == 4 == len({patient[i] for i in about["images"]})
        masks = open_masks(project.paths.masks(DATASET, f"decoder-4/{part}"))
        assert len(masks) == 24 and (masks.table()["prompt"] == "no-prompt").all()
        assert masks.identity["model"]["fingerprint"]["adapter"]["images"] == about["images"]
        features = open_features(project.paths.features(DATASET, f"decoder-4/{part}"))
        assert list(features.identity["views"]) == ["masked"]  # not what no mask decides
        assert features.identity["masks"]["images"] == about["images"]
        assert project.paths.masks(DATASET, f"decoder-4/{other}").is_dir()
    loads = []
    again = adapt(project, load=lambda: loads.append(1) or untrained())
    assert len(loads) == 1  # for its identity: nothing is computed
    assert (again.record.skipped, again.record.done) == (2, 0) and again.dice == project.first.dice


@pytest.mark.promise(
    "Evaluation refuses a prediction on an image whose mask, patient, group or copy the adapter of "
    "its features has seen."
)
def test_runs_on_a_variant_are_of_the_adapter_that_saw_nothing_and_a_leak_is_refused(
    project, monkeypatch
):
    params = project.params(**SMALL)
    train_dataset(DATASET, params, project.paths, jobs=1)
    runs, _ = read_runs(DATASET, ["linear-probe"], project.paths)
    by_view = {run.view: run for run in runs if run.protocol == "grouped"}
    assert list(by_view) == sorted(SMALL["train__views"]["grouped"])
    assert all(not run.failed and sorted(run.seeds) == [0, 1] for run in runs)
    plan = load_split_plan(DATASET, params, project.paths)
    added = set()
    for seed in (0, 1):  # the row of equal budget
        split, folder = plan.get("grouped", seed, 0.5), project.paths.adapter(DATASET, "decoder-4")
        labelled = {*split.train, *split.val}
        more = set(read_about(folder / f"{seed}.safetensors")["images"])
        assert by_view["whole"].labels[seed] == len(labelled)
        assert by_view["whole+labels@decoder-4"].labels[seed] == len(labelled | more)
        added |= more - labelled
    assert added
    proba = {view: run.seeds[0].proba for view, run in by_view.items()}
    assert not np.array_equal(proba["whole"], proba["whole+labels@decoder-4"])

    # New images have no mask of such an adapter: not chosen, and refused when asked for.
    assert choose_run(DATASET, params, project.paths)[:2] == ("linear-probe", "whole")
    with pytest.raises(PipelineError, match=r"view masked@reviewed is of masks .*without @"):
        view = {"learner": "linear-probe", "view": "masked@reviewed"}
        predict_images(DATASET, [project.file("00.png")], params, project.paths, **view)

    part = SplitPlan.part
    monkeypatch.setattr(SplitPlan, "part", lambda self, *of: str(1 - int(part(self, *of))))
    train_dataset(DATASET, params, project.paths, jobs=1)  # the fault: features of the other fold
    with pytest.raises(PipelineError, match=r"test images belong .* adapter of decoder-4/\d"):
        read_runs(DATASET, ["linear-probe"], project.paths)
    monkeypatch.undo()
    train_dataset(DATASET, params, project.paths, jobs=1)
    read_runs(DATASET, ["linear-probe"], project.paths)

    before = [dict(row) for row in project.rows]
    try:  # a patient of whom one image was learned from and another one is tested
        learned = open_features(project.paths.features(DATASET, "decoder-4/0"))
        seen = learned.identity["masks"]["images"][0]
        tested = next(iter(runs[0].seeds[0].ids))
        project.row(tested)["group"] = project.row(seen)["group"] = "same scanner visit"
        project.write()
        with pytest.raises(PipelineError, match="made from other manifest"):
            read_runs(DATASET, ["linear-probe"], project.paths)
        # And were the labels drawn again as before:
        monkeypatch.setattr("pipeline.evaluate.predictions.check", lambda *of, **now: None)
        with pytest.raises(PipelineError, match=f"patient, group, file or copy.*{tested}"):
            read_runs(DATASET, ["linear-probe"], project.paths)
    finally:
        project.rows[:] = before
        project.write()


def test_the_page_of_masks_has_the_dice_of_each_and_the_accuracy_that_follows(project):
    views = ["whole", "whole+masked@decoder-4", "whole+labels@decoder-4"]
    runs = [{"name": view, "learner": "linear-probe", "view": view} for view in views]
    params = project.params(**SMALL | {"study__runs": runs, "evaluate__bootstrap": 20})
    train_dataset(DATASET, params, project.paths, jobs=1)
    compare_dataset(DATASET, params, project.paths)
    manifest, file = read_manifest(project.paths.manifest(DATASET)), project.paths.mask_quality
    mask_quality(DATASET, manifest, project.paths).to_parquet(file(DATASET))
    write_masks(params, project.paths, [DATASET])
    results = project.paths.results
    dice = pd.read_csv(results / "masks.csv").set_index("masks").loc["decoder-4"]
    of_parts = [mean for _, mean in project.first.dice.values()]
    assert (dice["shots"], dice["n_dice"]) == (4, 24)
    assert dice["dice"] == pytest.approx(np.mean(of_parts), abs=1e-5)  # parts of one size
    table = pd.read_csv(results / "masks_accuracy.csv").set_index("view")
    row, whole = table.loc[views[1]], table.loc[views[0]]
    assert (row["masks"], row["n_compared"]) == ("decoder-4", 2)
    assert table.loc[views[2], "n_labels"] > whole["n_labels"] == row["n_labels"]

    unmasked, right = 0, {view: [] for view in views[:2]}
    for run in read_runs(DATASET, ["linear-probe"], project.paths)[0]:
        for seed, of in run.seeds.items():
            if run.protocol == "grouped" and run.view in right:
                masks = open_masks(project.paths.masks(DATASET, f"decoder-4/{seed}")).table()
                ok = np.array([masks.at[i, "status"] == "ok" for i in of.ids])
                right[run.view] += [(of.proba.argmax(1) == of.y)[ok].mean()] if ok.any() else []
                unmasked += (~ok).sum() * (run.view != "whole")
    assert row["n_unmasked"] == unmasked
    for view, name in zip(right, ("baseline_masked", "accuracy_masked"), strict=True):
        assert row[name] == pytest.approx(np.mean(right[view]), abs=1e-5)
    page = (project.paths.results / "masks.md").read_text("utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| toy | decoder-4 |")]
    stored = pd.read_parquet(file(DATASET)).query("strategy == 'salient-refine'")
    cells = "adapted: decoder", "4", "0", "2 of 2", "24"  # method, masks, seed, folds, images
    assert line.startswith(f"| toy | decoder-4 | {' | '.join(cells)} |")
    assert line.endswith(f" | {stored['dice'].mean():.3f} | not in a git checkout |")
    assert f"| 24 | {views[1]} | decoder-4 | 2 of 2 | 2 |" in page  # of two draws
    assert " of 2, incomplete" not in page
    drawn = (project.paths.results / "masks.svg").read_text("utf-8")
    assert all(name in drawn for name in (">decoder-4<", ">whole+masked<", f">{DATASET}<"))
    made = project.paths.adapter(DATASET, "decoder-4") / "1.parquet"
    aside = made.rename(made.with_suffix(".aside"))
    try:  # a fold that is not made yet
        write_masks(params, project.paths, [DATASET])
        page = (project.paths.results / "masks.md").read_text("utf-8")
        dice = project.first.dice["0"][1]
        assert f"| adapted: decoder | 4 | 0 | 1 of 2, incomplete | 12 | {dice:.3f} " in page
    finally:
        aside.rename(made)


def test_rows_that_were_measured_before_stand_while_their_data_set_is_the_same(tmp_path):
    def rows(*given: tuple[str, str, float]) -> pd.DataFrame:
        return pd.DataFrame(given, columns=["dataset", "masks", "dice"])

    def written(table: pd.DataFrame, commit: str, **data: str) -> list[tuple]:
        kept = with_earlier(table, ["dataset", "masks"], file, data, commit)
        file.write_text(csv_text(kept), "utf-8")
        return [*kept[["dataset", "masks", "dice", "commit"]].itertuples(index=False, name=None)]

    file = tmp_path / "masks.csv"
    first = rows(("b", "", 0.1), ("b", "full-4", 0.2), ("c", "full-4", 0.3))
    before = [("b", "", 0.1, "one"), ("b", "full-4", 0.2, "one"), ("c", "full-4", 0.3, "one")]
    assert written(first, "one", b="11", c="22") == before
    second = rows(("b", "", 0.4), ("a", "", 0.5))
    after = [("a", "", 0.5, "two"), ("b", "", 0.4, "two"), *before[1:]]
    assert written(second, "two", a="33", b="11") == after
    assert written(rows(("c", "", 0.6)), "three", c="44") == [*after[:-1], ("c", "", 0.6, "three")]
    file.write_text("dataset,masks,dice\nb,full-4,0.2\n", "utf-8")
    with pytest.raises(PipelineError, match=r"masks.csv: no column commit: .* - move it away"):
        with_earlier(second, ["dataset", "masks"], file, {}, "four")


def test_what_a_person_corrected_is_learned_from_and_nothing_else(project):
    manifest = read_manifest(project.paths.manifest(DATASET))
    items, mask_of = corrected(DATASET, "reviewed", manifest, project.paths)
    assert {item.image_id for item in items} == {f"{i:02}.png" for i in range(12)} - {"03.png"}
    assert mask_of(items[0], (40, 48)).sum() == 100 and len({item.key for item in items}) == 11
    source = project.params(adapt__source="reviewed").adapt
    assert default_name(source) == "full-16-reviewed"
    with pytest.raises(ManifestError, match="no image outside part 0 has a corrected mask in rev"):
        choose([], source, {}, "0", project.paths.manifest(DATASET))
    with pytest.raises(StoreError, match=r"no masks corrected .*run: pipeline review"):
        adapt(project, adapt__source="decoder-4")


def test_masks_are_averaged_over_copies_and_older_variants_stay_what_they_are(project):
    made = adapt(project, adapt__average="averaged")
    name = "decoder-4-averaged"
    assert (made.variant, made.record.done) == (name, 2)
    for part in "01":
        plain, other = (
            read_about(project.paths.adapter(DATASET, of) / f"{part}.safetensors")
            for of in ("decoder-4", name)
        )
        assert plain["sha256"] == other["sha256"] and other["params"]["average"] == "averaged"
        assert "average" not in plain["params"]
        masks = open_masks(project.paths.masks(DATASET, f"{name}/{part}"))
        assert (masks.table()["prompt"] == "averaged").all()
        assert masks.identity["prompt"] == {"strategy": "averaged", "version": 1}
    with pytest.raises(ConfigError, match=r"made with other choices: params.average"):
        adapt(project, variant=name)


def test_what_cannot_be_adapted_or_is_not_there_is_said_in_one_line(project, tmp_path):
    with pytest.raises(ConfigError, match=r"made with other choices: params.steps: 3 .*--name"):
        adapt(project, adapt__steps=4)
    with pytest.raises(ConfigError, match=r"only 12 images .* not 99 - give --shots"):
        adapt(project, adapt__shots=99)
    with pytest.raises(ConfigError, match="cannot be the name of a variant"):
        adapt(project, variant="a/b")
    with pytest.raises(StoreError, match=r"no such variant .*use one of decoder-4"):
        parts_of_variant(DATASET, "lora-4", project.paths)
    missing = project.params(**SMALL | {"train__views": {"grouped": ["masked@lora-4"]}})
    with pytest.raises(StoreError, match=r"no features .*adapt --dataset toy --name lora-4"):
        train_dataset(DATASET, missing, project.paths, jobs=1)
    with pytest.raises(ConfigError, match="'masked@' names no variant"):
        project.params(train__views={"grouped": ["masked@"]})
    with pytest.raises(ConfigError, match="'labels@v' is not one view with labels@ of one variant"):
        project.params(train__views={"grouped": ["labels@v"]})
    foreign = project.paths.masks(DATASET, "foreign/0")
    foreign.parent.mkdir()
    os.rename(project.paths.masks(DATASET), foreign)
    try:
        with pytest.raises(StoreError, match="masks of no adapter, not of toy"):
            encode_dataset(DATASET, missing, project.paths, clip=small_clip(), variant="foreign/0")
    finally:
        os.rename(foreign, project.paths.masks(DATASET))

    bare = make(tmp_path, 8)
    for row in bare.rows:
        row["mask_path"] = ""
    bare.write()
    with pytest.raises(ManifestError, match=r"no image outside part 0 has a ground-truth mask"):
        adapt(bare)


def test_a_class_without_masks_is_named_and_an_empty_mask_is_refused(tmp_path, capsys):
    made = make(tmp_path, 8)
    image, _ = scene(1, 40, 48)
    for row in list(made.rows):
        if row["label"] == "dog":
            row["mask_path"] = ""
        else:
            new = made.make_row(row["image_id"], image, scene(1, 40, 48, ellipse=False)[1])
            row["mask_path"], row["sha256"] = new["mask_path"], new["sha256"]
    made.write()
    with pytest.raises(ImageError, match=r"ground truth is empty - run `pipeline data refresh`"):
        adapt(made, adapt__shots=1)
    assert "no image of dog has a mask" in capsys.readouterr().err


KILL = """
import os, signal
from pathlib import Path
from pipeline.adapt import fit
fit.SAVE_SECONDS, save = 0, fit.torch.save
def save_and_die(kept, path):
    save(kept, path)
    if len(kept["losses"]) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
fit.torch.save = save_and_die
from tests.adapt.test_variant import Project, adapt
adapt(Project(Path()), adapt__protocol="official")
"""


@pytest.mark.promise("An adapter that was killed while it trained ends as the same bits.")
def test_a_kill_loses_no_step_that_was_saved_and_the_end_is_the_same(tmp_path):
    made, whole = (make(tmp_path / name, 8) for name in ("killed", "whole"))
    killed = warm.start("", (), tmp_path / "killed", os.environ, tmp_path / "log", KILL)
    assert killed.wait() == -signal.SIGKILL, killed.output
    name = "official.safetensors"
    folder, other = (of.paths.adapter(DATASET, "decoder-4-official") for of in (made, whole))
    assert len(list(folder.glob("official-*.pt"))) == 1 and not read_about(folder / name)
    for of in (made, whole):
        adapt(of, adapt__protocol="official")
    assert sha256_file(folder / name) == sha256_file(other / name)
    assert not [*folder.glob(".*"), *folder.glob("*.pt")]


def test_the_masks_that_a_view_sees():
    views = ("whole", "whole+crop", "oracle", "masked@full-2", "masked@reviewed", "random@full-2")
    seen = ["", STORED, TRUTH, "full-2", "reviewed", f"{RANDOM} (full-2)"]
    assert [masks_of(view) for view in views] == seen
