"""Sections on masks: the gallery, where masking changed predictions, quality, heat maps."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import PipelineError
from pipeline.evaluate.images import flips, gain_by_dice
from pipeline.evaluate.mask_quality import summarise_masks
from pipeline.images.overlay import data_uri, draw_heat
from pipeline.models import ModelSpec
from pipeline.report import words
from pipeline.report.accuracy import Runs
from pipeline.report.blocks import (
    Cell,
    Gallery,
    Grid,
    Picture,
    Plot,
    Section,
    Table,
    Text,
    head,
    interval_cell,
    number,
    percent,
    plural,
    slug,
)
from pipeline.report.data import Dataset, Run, reason_of
from pipeline.report.pictures import Album, spread
from pipeline.report.plots import histogram, scatter

SHOWN = 6
OUTCOMES = ("ok", "empty", "full", "failed")
FLOORS = ("random", "ellipse")
JUDGED = {"dice": 3, "iou": 3, "hd95": 1}
"""Measures of mask quality and their decimals."""
MISSED = 0.1
"""A mask with a smaller Dice than this misses the region."""


def gallery_section(data: Dataset, album: Album, runs: Runs) -> Section | None:
    """Show images with mask outlines: worst first, changed by masking, and fallbacks."""
    if data.manifest is None:
        return None
    blocks: list = [Text(words.OUTLINES, "note")]
    ranked = worst_first(data, runs)
    if ranked is not None:
        run, fraction, cases = ranked
        shown = spread(list(cases.index), data.params.report.gallery)
        captions = [(i, words.case(cases.loc[i])) for i in shown]
        where = words.block(data, data.headline)
        title = words.GALLERY_TITLE.format(runs.name(run), words.labels(fraction), where)
        blocks.append(Gallery(title, album.pictures(captions), words.GALLERY_NOTE))
        blocks += changed_images(data, album, runs, fraction)
    elif data.masks is not None:
        ids = spread(list(data.manifest["image_id"]), data.params.report.gallery)
        blocks.append(Gallery(words.NO_PREDICTIONS, album.pictures((i, "") for i in ids)))
    total = plural(len(data.mask_status), "image")
    for status in OUTCOMES[1:]:
        ids = sorted(i for i, s in data.mask_status.items() if s == status)
        if ids:
            title = words.OUTCOME_TITLE.format(words.OUTCOMES[status], len(ids), total)
            pictures = album.pictures((i, "") for i in ids[:SHOWN])
            blocks.append(Gallery(title, pictures, more=len(ids) - len(pictures)))
    if len(blocks) == 1:
        return None
    statuses = data.mask_status.values()
    bad = sum(status != "ok" for status in statuses)
    summary = words.GALLERY_SUMMARY.format(bad, len(statuses)) if statuses else ""
    return Section("gallery", words.GALLERY, summary, blocks)


def worst_first(data: Dataset, runs: Runs) -> tuple[Run, float, pd.DataFrame] | None:
    """Return the study's last run that was predicted, the largest share, and its images by the
    probability of the true class."""
    if data.headline is None:
        return None
    fraction = data.fractions(data.headline)[-1]
    for run in reversed(list(runs.names)):
        cases = data.cases(data.headline[0], run, fraction)
        if cases is not None:
            cases = cases[cases.index.isin(data.manifest["image_id"])]
            return run, fraction, cases.sort_values(["p_true", "right"], kind="stable")
    return None


def changed_images(data: Dataset, album: Album, runs: Runs, fraction: float) -> list[Gallery]:
    """Show where the study's second run is right more or less often than the baseline."""
    table = changes(data, runs, fraction)
    if table is None:
        return []
    made = []
    baseline, run = list(runs.names.values())[:2]
    for sign, often in ((1, words.MORE_OFTEN), (-1, words.LESS_OFTEN)):
        mine = table[table["change"] * sign > 0]
        order = mine.assign(a=-sign * mine["change"], b=-sign * mine["p_change"], id=mine.index)
        chosen = order.sort_values(["a", "b", "id"]).head(SHOWN)
        pictures = [album.picture(i, flip_caption(r)) for i, r in chosen.iterrows()]
        title = often.format(run, baseline, len(mine), plural(len(table), "image"))
        made.append(Gallery(title, pictures, more=len(mine) - len(pictures)))
    return made


def flip_caption(r: pd.Series) -> str:
    """Say what an image was called before and after, and how many seeds were right."""
    right = [round(r[f"right_{s}"] * r[f"seeds_{s}"]) for s in ("before", "after")]
    called = r["y_true_before"], r["y_pred_before"], r["y_pred_after"]
    return words.FLIP.format(*called, *right, int(r["seeds_after"]))


def changes(data: Dataset, runs: Runs, fraction: float) -> pd.DataFrame | None:
    """Compare the study's second run with the baseline by image (`flips`); None without both."""
    cases = [data.cases(data.headline[0], run, fraction) for run in list(runs.names)[:2]]
    return flips(*cases) if len(cases) == 2 and all(c is not None for c in cases) else None


def quality_section(data: Dataset, album: Album, runs: Runs) -> Section | None:
    """Show outcomes, areas, Dice by strategy and class, and the worst masks."""
    blocks: list = []
    plots: list[Plot] = []
    name = slug("quality", data.name)
    if data.masks is not None:
        masks = data.in_manifest(data.masks)
        blocks.append(outcome_table(masks))
        areas = {words.STORED: masks["area_fraction"].to_numpy(float)}
    quality = data.mask_quality
    judged = quality is not None and not quality.empty
    if judged:
        seen = words.trained_on(data)
        blocks += [Text(seen, "warning")] if seen else []
        blocks.append(dice_table(data, quality))
        mine = quality[quality["strategy"] == stored_strategy(quality)]
        series = {words.STORED: mine["dice"].to_numpy(float)}
        floor = quality[quality["strategy"] == FLOORS[0]]
        if len(floor):
            series[words.FLOORS[FLOORS[0]]] = floor["dice"].to_numpy(float)
        plots.append(histogram_plot(f"{name}-dice", words.DICE_HISTOGRAM, series, words.DICE, 1.0))
        areas = {words.STORED: mine["pred_area_fraction"].to_numpy(float)}
        areas[words.TRUTH] = mine["gt_area_fraction"].to_numpy(float)
    elif blocks:
        blocks.append(Text(words.NO_TRUTH, "note"))
    if not blocks:
        return None
    top = max((float(np.nanmax(v)) for v in areas.values() if np.isfinite(v).any()), default=1.0)
    top = np.ceil(10 * top) / 10
    plots.append(histogram_plot(f"{name}-area", words.AREA_HISTOGRAM, areas, words.AREA, top))
    effect = effect_plot(data, runs) if judged else None
    plots += [effect] if effect else []
    blocks.append(Grid(plots))
    if data.prompt_quality is not None and len(data.prompt_quality):
        blocks.append(prompt_table(data, data.prompt_quality))
    if judged:
        worst = mine.dropna(subset=["dice"]).sort_values(["dice", "image_id"])
        captions = [
            (r.image_id, f"{r.label}; {words.DICE} {number(r.dice)}")
            for r in worst.head(SHOWN).itertuples()
        ]
        missed = int((worst["dice"] < MISSED).sum())
        note = words.MISSED.format(missed, plural(len(worst), "mask"))
        blocks.append(Gallery(words.WORST_MASKS, album.pictures(captions), note))
    return Section("quality", words.QUALITY, words.QUALITY_SUMMARY, blocks)


def histogram_plot(name: str, title: str, series: dict, x_label: str, top: float) -> Plot:
    """Return a histogram from 0 to `top` with the table of its counts."""
    edges = np.linspace(0, max(top, 1e-3), 21)
    drawn, counts = histogram(name, title, series, x_label, edges)
    rows = [
        [f"{a:.3g}–{b:.3g}", *(int(n[i]) for n in counts.values())]
        for i, (a, b) in enumerate(itertools.pairwise(edges))
        if any(n[i] for n in counts.values())
    ]
    return Plot(title, drawn, Table([x_label, *counts], rows, note=words.IMAGE_COUNTS))


def stored_strategy(quality: pd.DataFrame) -> str:
    """Return the prompt strategy of the stored masks: the one that is no floor."""
    return next(str(s) for s in quality["strategy"].unique() if s not in FLOORS)


def outcome_table(masks: pd.DataFrame) -> Table:
    """Return classes x outcomes: the number of masks and their share of the class."""
    counts = pd.crosstab(masks["label"], masks["status"]).reindex(columns=OUTCOMES, fill_value=0)
    counts.loc[words.ALL_CLASSES] = counts.sum()
    rows = []
    for label, of in counts.iterrows():
        total = int(of.sum())
        cells = [Cell(f"{n:,} ({percent(n / total)} %)", n / total, "number") for n in of]
        rows.append([head(label), total, *cells])
    headers = [words.CLASS, words.IMAGES, *(words.OUTCOMES[o] for o in OUTCOMES)]
    return Table(headers, rows, words.OUTCOMES_CAPTION)


def dice_table(data: Dataset, quality: pd.DataFrame) -> Table:
    """Return Dice, IoU and HD95 of the stored masks by class, then of the floors."""
    rows = []
    stored = stored_strategy(quality)
    for strategy in (stored, *FLOORS):
        parts = [("all", "", words.ALL_CLASSES), ("test", "", words.ALL_CLASSES_TEST)]
        if strategy == stored:
            parts += [("all", label, label) for label in data.classes]
        for split, label, name in parts:
            found = data.mask_figures(strategy, split, label)
            if found is not None and found.n_images:
                title = words.FLOORS.get(strategy) or words.STORED_STRATEGY.format(strategy)
                missed = Cell(percent(found.missed), found.missed, "number")
                rows.append([head(title), name, found.n_images, *judged_cells(found), missed])
    return Table(words.DICE_HEADERS, rows, words.DICE_CAPTION, words.dice_note(quality))


def judged_cells(found: Any) -> list[Cell]:
    """Return the cells of Dice, IoU and HD95 of a row of `summarise_masks`."""
    values = [[getattr(found, f"{m}{end}") for end in ("", "_lo", "_hi")] for m in JUDGED]
    return [
        interval_cell(*v, scale=1, digits=n) for v, n in zip(values, JUDGED.values(), strict=True)
    ]


def prompt_table(data: Dataset, quality: pd.DataFrame) -> Table:
    """Return every prompt strategy: those without ground truth first, the best first."""
    summary = summarise_masks(quality, data.units, data.params.evaluate)
    summary = summary[(summary["split"] == "all") & (summary["label"] == "")]
    truth = quality.groupby("strategy")["from_truth"].first()
    summary = summary.assign(truth=summary["strategy"].map(truth))
    stored = None
    if data.mask_quality is not None and len(data.mask_quality):
        stored = stored_strategy(data.mask_quality)
    rows = []
    for r in summary.sort_values(["truth", "dice"], ascending=[True, False]).itertuples():
        name = words.strategy(r.strategy, used=r.strategy == stored)
        rows.append([head(name), words.YES if r.truth else words.NO, r.n_images, *judged_cells(r)])
    return Table(words.PROMPT_HEADERS, rows, words.PROMPT_CAPTION, words.PROMPT_NOTE)


def effect_plot(data: Dataset, runs: Runs) -> Plot | None:
    """Plot each image's Dice against what masking did to the probability of its true class."""
    if data.headline is None:
        return None
    table = changes(data, runs, data.fractions(data.headline)[-1])
    if table is None:
        return None
    quality = data.mask_quality
    mine = quality[quality["strategy"] == stored_strategy(quality)].drop_duplicates("image_id")
    dice = mine.set_index("image_id")["dice"]
    found = gain_by_dice(table, dice, data.units, data.params.evaluate)
    if not len(found.quarters):
        return None
    quarters = list(found.quarters.itertuples())
    table = table.join(dice, how="inner").dropna(subset=["dice", "p_change"])
    drawn = scatter(
        slug("effect", data.name),
        words.EFFECT,
        table["dice"].to_numpy(),
        table["p_change"].to_numpy(),
        list(table["y_true_before"]),
        [(q.dice, q.p_change, q.p_change_lo, q.p_change_hi) for q in quarters],
        words.DICE,
        words.EFFECT_AXIS.format(list(runs.names.values())[1].lower()),
    )
    rows = [
        [
            head(f"{number(q.dice_min)}–{number(q.dice_max)}"),
            q.n_images,
            interval_cell(q.p_change, q.p_change_lo, q.p_change_hi, scale=1, digits=3, sign=True),
        ]
        for q in quarters
    ]
    return Plot(words.EFFECT, drawn, Table(words.EFFECT_HEADERS, rows), words.effect(found))


def heat_section(data: Dataset, album: Album, runs: Runs) -> Section | None:
    """Show where the image is similar to the text of its class, with the stores' own model.

    The one section that needs a model. Without it, or with another one than that of the feature
    store, the section says so and shows nothing.
    """
    if not data.params.report.heatmaps or data.features is None or data.manifest is None:
        return None
    blocks: list = [Text(words.HEAT_TEXT)]
    try:
        pictures = heat_pictures(data, album, runs, stored_clip(data))
        blocks.append(Gallery("", pictures, pairs=True))
    except PipelineError as error:
        blocks = [Text(words.NO_HEAT.format(reason_of(error)), "warning")]
    return Section("heat", words.HEAT, words.HEAT_SUMMARY, blocks)


def stored_clip(data: Dataset):
    """Load the CLIP model that made the feature store.

    Raises:
        PipelineError: the model of params.yaml is another one; says what differs.
    """
    spec = data.params.models.clip
    then = dict(data.features.identity).get("model", {}).get("fingerprint") or {}
    if then.get("name") != spec.name:
        raise other_model([("name", then.get("name"), spec.name)])
    clip = _load(spec)
    now = clip.fingerprint
    differ = [
        (k, then.get(k), now.get(k)) for k in sorted({*then, *now}) if then.get(k) != now.get(k)
    ]
    if differ:
        raise other_model(differ)
    return clip


def other_model(differ: list[tuple]) -> PipelineError:
    """Return the error that says how the model differs: (what, in the store, in params.yaml)."""
    listed = "; ".join(words.OTHER_VALUE.format(*values) for values in differ)
    return PipelineError(words.OTHER_MODEL.format(listed))


@lru_cache(maxsize=1)
def _load(spec: ModelSpec):
    from pipeline.models import load_clip

    return load_clip(spec)


def heat_pictures(data: Dataset, album: Album, runs: Runs, clip) -> list[Picture]:
    """Return, for each of a few images, the image and its map for the true class."""
    from pipeline.encode.heatmap import patch_similarity

    identity = dict(data.features.identity)
    classes = list(data.features.classes)
    texts = np.asarray(data.features.class_features())
    labels = data.manifest.set_index("image_id")["label"]
    ranked = worst_first(data, runs)
    ids = list(data.manifest["image_id"] if ranked is None else ranked[2].index)
    pictures = []
    for image_id in spread([i for i in ids if labels[i] in classes], data.params.report.heatmaps):
        label = labels[image_id]
        pictures.append(album.picture(image_id, label))
        try:
            image = album.image(image_id)
        except (PipelineError, OSError) as error:
            pictures.append(Picture(image_id, "", note=words.UNREADABLE.format(reason_of(error))))
            continue
        text = texts[classes.index(label)]
        heat = patch_similarity(clip, image, text, identity["geometry"], identity["fill"])
        caption = words.SIMILARITY.format(label, number(np.nanmin(heat)), number(np.nanmax(heat)))
        uri = data_uri(draw_heat(image, heat, size=album.size))
        pictures.append(Picture(image_id, uri, caption, alt=words.HEAT_ALT.format(image_id, label)))
    return pictures
