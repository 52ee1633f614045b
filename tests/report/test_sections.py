"""What single sections say equals what the tables hold."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from make_inputs import restamp
from make_stores import FAILED
from PIL import Image

from pipeline.io import sha256_file
from pipeline.paths import Paths
from pipeline.report.build import _environment, build_report
from pipeline.report.cases import image_cases
from pipeline.report.gallery import Album
from pipeline.report.inputs import load_inputs
from pipeline.report.sections import (
    confusion,
    dice_effect,
    failures,
    flips,
    heatmaps,
    identity,
    leaks,
    masks_gallery,
    scores,
)
from pipeline.report.sections.in_short import in_short
from pipeline.report.sections.reproduce import reproduce
from tests.encode.conftest import small_clip
from tests.learners.projects import write_features


def right(found, view: str):
    rows = found.predictions(protocol="official", head="linear-probe", view=view, fraction=1.0)
    return (rows["y_true"] == rows["y_pred"]).groupby(rows["image_id"]).sum()


def test_images_that_the_mask_helped_and_hurt_are_those_whose_predictions_flip(
    found, album, params
):
    change = right(found, "masked") - right(found, "whole")
    made = flips.section(found, album, params)
    _, table, helped, hurt = made.blocks
    row = next(r for r in table.rows if r[0].text == "linear probe" and r[1] == "100 %")
    counts = [int((change > 0).sum()), int((change < 0).sum()), int((change == 0).sum())]
    assert row[2:] == counts
    assert min(counts) > 0  # the made-up predictions have all three kinds
    for gallery, expected in ((helped, change[change > 0]), (hurt, change[change < 0])):
        shown = {p.image_id for p in gallery.pictures}
        assert shown <= set(expected.index)
        assert len(shown) == min(flips.SHOWN, len(expected))
        assert all(p.uri for p in gallery.pictures)


def test_a_head_without_predictions_with_all_labels_leaves_the_pictures_to_the_next(fresh):
    params, paths = fresh
    table = pd.read_parquet(paths.predictions("one"))
    gone = (table["view"] == "masked") & (table["fraction"] == 1)
    probe = gone & (table["head"] == "linear-probe")
    table[~probe].to_parquet(paths.predictions("one"))
    restamp(paths, "one")
    found = load_inputs("one", paths)
    *_, helped, hurt = flips.section(found, Album(found, 64), params).blocks
    assert all("MedFocus + probe, 100 % of" in g.title for g in (helped, hurt))
    assert dice_effect.joined(found)[1] == "medfocus-probe"
    table[~gone].to_parquet(paths.predictions("one"))
    restamp(paths, "one")
    _, table = flips.section(found, Album(found, 64), params).blocks
    assert {row[1] for row in table.rows} == {"5 %"}
    assert "Test images whose predictions flip" in build_report(params, paths).read_text("utf-8")


def test_a_confusion_cell_opens_the_images_that_are_counted_in_it(
    found, album, params, monkeypatch
):
    monkeypatch.setattr(confusion, "PER_CELL", 2)
    rows = found.predictions(protocol="official", head="linear-probe", view="whole", fraction=1.0)
    made = confusion.section(found, album, params)
    matrix = next(b for b in made.blocks if "linear probe, whole" in getattr(b, "caption", ""))
    opened = named = 0
    for true, line in zip(matrix.classes, matrix.rows, strict=True):
        for called, cell in zip(matrix.classes, line, strict=True):
            mine = rows[(rows["y_true"] == true) & (rows["y_pred"] == called)]
            assert float(cell.text) == pytest.approx(len(mine) / rows["seed"].nunique())
            if cell.gallery is None:
                assert mine.empty
                continue
            shown = [p.image_id for p in cell.gallery.pictures]
            assert len(shown) == min(2, mine["image_id"].nunique())
            assert sorted([*shown, *cell.gallery.others]) == sorted(mine["image_id"].unique())
            named += len(cell.gallery.others)
            opened += 1
    assert opened >= 3 and named >= 3
    html = str(_environment().get_template("blocks.html.j2").module.draw(matrix))
    cell = next(c for line in matrix.rows for c in line if c.gallery and c.gallery.others)
    assert f"more without a picture: {', '.join(cell.gallery.others)}</p>" in html


def test_the_gallery_begins_with_the_worst_image(found, album, params):
    made = masks_gallery.section(found, album, params)
    shown = [p.image_id for p in made.blocks[1].pictures]
    cases = image_cases(found, "official", "medfocus-probe", "masked", 1.0)
    assert shown[0] == cases["p_true"].idxmin()
    assert list(cases.loc[shown, "p_true"]) == sorted(cases.loc[shown, "p_true"])


def test_the_leak_audit_shows_both_pictures_of_each_pair(found, album, params):
    made = leaks.section(found, album, params)
    pairs = found.audit_pairs
    shown = [b for b in made.blocks if getattr(b, "kind", "") == "gallery"]
    titles = " ".join(b.title for b in shown)
    assert "the same bytes (1 pair)" in titles and "mirror images (2 pairs)" in titles
    mirrored = next(b for b in shown if "mirror" in b.title)
    ids = [p.image_id for p in mirrored.pictures]
    expected = pairs[pairs["kind"] == "mirror"].sort_values("score", ascending=False)
    assert ids == [i for r in expected.itertuples() for i in (r.image_id_a, r.image_id_b)]
    assert all(p.uri.startswith("data:image/") for p in mirrored.pictures)


def test_failures_are_named_once_with_stage_and_reason(found):
    assert failures.failures(found) == [("segment", FAILED, "truncated file")]


def test_hashes_versions_parameters_and_commands_are_on_the_page(_one, html):
    params, paths = _one
    assert sha256_file(paths.manifest("one")) in html
    record = identity.section(load_inputs("one", paths), None, params)
    titles = [b.title for b in record.blocks if b.kind == "details"]
    assert titles == ["Identity of the mask store"] + [
        f"Record of {s}" for s in ("segment", "encode", "train", "evaluate")
    ]
    table = next(b for b in reproduce(params, paths.root, ["one"]).blocks if b.kind == "table")
    versions = {row[0].text: row[1] for row in table.rows}
    assert {"git commit", "Python", "torch", "sam2", "open_clip_torch"} <= set(versions)
    assert re.match(r"\d+\.\d+", versions["torch"]) and versions["torch"] in html


def test_the_size_of_the_validation_part_is_stated_beside_the_figures(found, album, params):
    text, noted, points, *_ = scores.section(found, album, params).blocks
    text = text.text
    assert noted.text == "What the plan of the splits noted:"
    assert points.items[0] == "As published: 5 images without a split take no part."
    assert "20 % of them, by whole patients and groups" in text
    assert "Nothing is chosen on test images" in text


def test_the_summary_is_ten_lines_at_most_with_figures_and_no_jargon(found, params):
    lines = [line.striptags() for line in in_short([found] * 4, params)]
    assert len(lines) <= 10
    starts = [line.split(".")[0] for line in lines]
    assert starts[:2] == ["Asked", "Done"] and starts[-2:] == ["How sure", "Beware"]
    table = found.metrics
    at = (table["protocol"] == "grouped") & (table["head"] == "linear-probe")
    at &= (table["view"] == "whole") & (table["metric"] == "accuracy") & (table["seed"] == -1)
    at &= np.isclose(table["fraction"].astype(float), 1.0)
    assert f"{100 * table.loc[at, 'value'].item():.1f} % [" in lines[2]
    said = " ".join(lines).lower()
    for jargon in ("probe", "auroc", "holm", "bootstrap", "embedding", "hyperparameter", "seed"):
        assert jargon not in said


def of_kind(found, name: str, synthetic: str):
    one = dataclasses.replace(found, manifest=found.manifest.assign(synthetic=synthetic))
    one.name, one.tested = name, found.tested
    return one


def test_the_summary_says_of_each_set_what_is_known_of_its_images(found, params):
    phantoms, public = of_kind(found, "brain", "1"), of_kind(found, "brain", "0")
    own = of_kind(found, "chest", "0")
    said = "The images are {}. The models tested"
    assert said.format("drawn phantoms, no patients") in in_short([phantoms], params)[-1]
    public_ones = "public collections, not a clinic's"
    assert said.format(public_ones) in in_short([public], params)[-1].unescape()
    assert said.format("those of data_manifests/chest.csv") in in_short([own], params)[-1]
    both = in_short([public, own], params)[-1].unescape()
    assert f"The images of brain are {public_ones}. The images of chest are those of" in both
    assert all("fit for diagnosis" in line for line in (both, in_short([own], params)[-1]))


@pytest.fixture(scope="module")
def with_features(ready, params, tmp_path_factory):
    """The dataset with a feature store whose texts come from a small CLIP."""
    root = tmp_path_factory.mktemp("features") / "project"
    shutil.copytree(ready.root, root)
    paths, clip = Paths(root), small_clip()
    manifest = load_inputs("one", paths).manifest
    classes = sorted(manifest["label"].unique())
    text = clip.encode_text([f"a photo of {c}" for c in classes]).numpy()
    X = np.ones((len(manifest), text.shape[1]), np.float32)
    write_features(paths, "one", manifest, {"whole": X}, text, classes)
    return load_inputs("one", paths), clip


def test_a_heat_map_stands_beside_its_image_and_covers_it_to_the_pixel(with_features, params):
    found, clip = with_features
    pictures = heatmaps.heat_pictures(found, Album(found, 96), params, clip)
    assert len(pictures) == 2 * params.report.heatmaps
    for plain, heat in zip(pictures[::2], pictures[1::2], strict=True):
        assert plain.image_id == heat.image_id
        sizes = {decoded(p).size for p in (plain, heat)}
        assert sizes == {(96, 72)}  # the images are 48 x 36
        assert "similarity to" in heat.caption


def decoded(picture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1])))


def test_failures_beyond_those_shown_are_named_by_the_file_that_lists_them(fresh, params):
    _, paths = fresh
    record = paths.record("one", "segment")
    values = json.loads(record.read_text())
    values["failed"] = {f"a{i:03d}.png": "truncated" for i in range(failures.SHOWN + 5)}
    record.write_text(json.dumps(values))
    found = load_inputs("one", paths)
    table = failures.section(found, None, params).blocks[1]
    shown = [row[1].text for row in table.rows]
    assert shown == sorted(values["failed"])[: failures.SHOWN]
    # FAILED is known to the store only, and comes last.
    assert table.note == (
        "6 more are not shown: they are named in “failed” in cache/one/records/segment.json and "
        "the rows with status “failed” of cache/one/masks.zarr."
    )
