"""Build the report: one self-contained HTML page for all datasets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from pipeline.config import Params
from pipeline.engine.record import LIBRARIES, library_versions
from pipeline.io import atomic_write_text
from pipeline.models import DIGITS, trained_on
from pipeline.paths import Paths
from pipeline.report import pictures, systems, tables, words
from pipeline.report.data import (
    OTHER_SET,
    PUBLISHED,
    STAGES,
    TRUTH,
    Block,
    Dataset,
    Run,
    command,
    load_dataset,
    paper_tables,
    select,
)
from pipeline.report.pictures import Album
from pipeline.report.plots import DRAWN, curve, forest_inline, styles
from pipeline.report.words import interval, percent, plural, slug
from pipeline.store import MaskStore

DECIDING = ("pipeline", "stages", "params.yaml", "dvc.yaml", "data_manifests/prompts.yaml")
"""Files whose local changes are named next to the commit: they decide figures."""
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html.j2"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def build_report(params: Params, paths: Paths, datasets: Sequence[str] | None = None) -> Path:
    """Write `paths.report` and return it.

    The page needs no network: styles, script and pictures are inside. The same files, parameters,
    commit and library versions give the same bytes; no date is written.

    Args:
        params: the runs to compare, sizes of pictures, and the parameters that the page lists.
        paths: the project folder.
        datasets: names; default `params.datasets`. One that was not evaluated gets a part that
            names the missing files and the commands that make them.
    """
    found = [load_dataset(name, params, paths) for name in datasets or params.datasets]
    compared = [data for data in found if data.compare is not None and data.headline]
    looks = styles(params)
    html = render(
        "page.html.j2",
        sets=[part(data) for data in found],
        synthetic=words.join(data.name for data in found if data.synthetic),
        legend=[(run.name, looks[run.key]["color"]) for run in params.study.runs[:DRAWN]],
        answers=systems.answers(compared) if compared else [],
        ablations=[*filter(None, [systems.mask_part(compared)]), *systems.ablations(compared)],
        reading=how_to_read(params, found),
        commit=git_commit(Path(paths.root)),
        models=models_used(found),
        commands=[command(stage, data.name) for data in found for stage in STAGES[1:]],
        versions=library_versions((*LIBRARIES, "pandas", "scikit-learn", "matplotlib")),
        differing=differing(found, params),
        parameters=as_yaml(params.model_dump(mode="json", by_alias=True)),
    )
    atomic_write_text(paths.report, html)
    return paths.report


def render(template: str, **values: Any) -> str:
    """Fill a template; text in an HTML page is escaped."""
    return ENVIRONMENT.get_template(template).render(**values)


def how_to_read(params: Params, datasets: Sequence[Dataset]) -> list[str]:
    """Return the few rules that a reader of any figure needs."""
    models = models_used(datasets)
    return render("reading.txt.j2", params=params, words=words, models=models).splitlines()


def models_used(datasets: Sequence[Dataset]) -> str:
    """Name the models that the stores were made with, whatever params.yaml names now."""
    used: dict[str, dict[str, None]] = {"masks": {}, "features": {}}
    for data, what in ((data, what) for data in datasets for what in used):
        if (store := getattr(data, what)) is not None:
            model, prompt = store.identity.get("model"), store.identity.get("prompt")
            name = model["fingerprint"]["name"] if isinstance(model, dict) else "no model"
            used[what][name + (f" (prompt {prompt['strategy']})" if prompt else "")] = None
    said = [f"{words.join(names)} for {what}" for what, names in used.items() if names]
    return ", ".join(said) or "no models yet"


def part(data: Dataset) -> dict[str, Any]:
    """Return what the template shows of a dataset, as far as its files allow."""
    album = Album(data, data.params.report.thumbnail)
    shown = pictures.example(data)
    block = data.headline
    made = {
        "data": data,
        "id": slug("set", data.name),
        "where": words.block(data, block) if block else "not evaluated",
        "verdicts": verdicts(data),
        "facts": facts(data),
        "example": album.example(shown) if shown else [],
        "curve": curve(slug("overview", data.name), data, block, drawn(data, block), small=True)
        if block
        else None,
        **comparison(data),
        "protocols": [protocol(data, one) for one in data.blocks],
        "notes": [words.note(data, text) for text in data.notes],
        "broken": tables.broken(data),
        "images": pictures.images(data, album),
        "unusable": sum(status != "ok" for status in data.mask_status.values()),
        "outcomes": tables.outcomes(data) if data.masks is not None else None,
        "dice": tables.dice(data) if data.stored_quality is not None else None,
        "seen": seen(data.masks, data.manifest),
        "prompts": tables.prompts(data),
        "worst_masks": pictures.worst_masks(data, album),
        "errors": [],
        "copies": tables.copies(data),
        "pairs": pictures.pairs(data, album),
        "paper": tables.paper(data) if data.quoted else None,
        "quoted_in": list(select(paper_tables(), dataset=data.name)["table"].unique()),
        "other_set": OTHER_SET.get(data.name),
        "failures": tables.failures(data),
        "left_out": left_out(data),
        "identities": as_yaml(identities(data)),
        "warnings": warnings(data),
        "segment": command("segment", data.name),
    }
    if block:
        full = (block[0], "full")
        made["errors_on"] = words.block(data, full), words.about_block(data, full)
        made["errors"] = [
            (data.run_name(run), tables.errors(data, run)) for run in drawn(data, full)
        ]
    # Last, since the galleries find the masks that are lost.
    return made | {"lost": sorted(album.lost.items())}


def drawn(data: Dataset, block: Block) -> list[Run]:
    """Return the runs of a block's curve: as many of the study as there are colours."""
    first = list(data.study)[:DRAWN]
    return [run for run in data.shown(block) if block in TRUTH or run in first]


def comparison(data: Dataset) -> dict[str, Any]:
    """Return the table of all systems, its forest plot and what to use; empty before `compare`."""
    if data.compare is None or data.headline is None:
        return {"systems": None}
    bars = systems.bars(data)
    rows = systems.rows_at(data, data.headline[0], systems.MEAN).values()
    return {
        "systems": systems.grid(data),
        "advice": systems.advice(data),
        "forest": forest_inline(slug("forest", data.name), data.name, bars) if bars else None,
        "best": words.join(dict.fromkeys(row.best_name for row in rows if row.best_name)),
    }


def protocol(data: Dataset, block: Block) -> dict[str, Any]:
    """Return the curve of a protocol and the tables of all its figures."""
    shown = data.shown(block)
    quoted = {name: row for name, row in data.quoted.items() if data.counterpart(name)}
    found = data.accuracy(block)
    notes = [e.note for by in found.values() for e in by.values() if isinstance(e.note, str)]
    name = slug("curve", data.name, *block)
    return {
        "name": words.block(data, block),
        "about": words.about_block(data, block),
        "curve": curve(
            name, data, block, drawn(data, block), quoted=quoted if block == PUBLISHED else None
        ),
        "accuracy": tables.accuracy(data, block, shown, "Accuracy in percent"),
        "differences": tables.differences(data, block),
        "few_shot": tables.few_shot(data, block, shown),
        "all": [
            tables.accuracy(data, block, list(found), "Accuracy of every run in percent"),
            tables.measures(data, block),
        ],
        "notes": sorted({part for note in notes for part in note.split("; ") if part}),
    }


def verdicts(data: Dataset) -> list[dict[str, Any]]:
    """Return what each run of the study but the baseline does to accuracy in the headline: the
    verdict with the most labels, and the difference with the most and the fewest."""
    found = []
    for run, name in list(data.study.items())[:DRAWN]:
        by = data.differences.get((data.headline, run, data.baseline), {})
        by = {f: by[f] for f in data.fractions(data.headline) if f in by}
        if by:
            figures = [
                f"{words.inline(tables.difference(by[f]))} points with {words.labels(f)}"
                for f in dict.fromkeys((max(by), min(by)))
            ]
            verdict = words.verdict(by[max(by)])
            found.append({"run": name, "verdict": verdict, "figures": figures})
    return found


def facts(data: Dataset) -> list[str]:
    """Return short facts: images and classes, copies, Dice, the largest class."""
    said = []
    if data.manifest is not None:
        said += [plural(len(data.manifest), "image"), plural(len(data.classes), "class", "classes")]
    if data.test_copies is not None:
        test, _, copies = data.test_copies
        said.append(f"{percent(copies / max(test, 1))} % of test images have a copy in training")
    for r in data.mask_figures[:1]:
        text = words.inline(interval(r.dice, r.dice_lo, r.dice_hi, 1, 2))
        said.append(f"Dice of the masks {text}")
    tested = data.tested.get(data.headline)
    if tested is not None:
        said.append(f"largest class ({tested.largest_class}) {percent(tested.largest_share)} %")
    return said


def seen(masks: MaskStore | None, table: pd.DataFrame | None) -> str:
    """Say how many images of a manifest the weights behind a store of masks were trained on; ""
    where none is known."""
    if masks is None or table is None:
        return ""
    model = masks.identity.get("model")
    fingerprint = model["fingerprint"] if isinstance(model, dict) else {}
    known = table["sha256"].str[:DIGITS].isin(trained_on(fingerprint.get("checkpoint_sha256", "")))
    if not known.any():
        return ""
    patients = set(table["patient_id"][known]) - {""}
    test = table["split"] == "test"
    shared = int((test & ~known & table["patient_id"].isin(patients)).sum())
    text = (
        f"{fingerprint.get('name', 'SAM2')} was trained on the ground-truth masks, not the labels, "
        f"of {plural(int(known.sum()), 'image')} of this data set: its masks here are not a result "
        "on unseen images."
    )
    if shared:
        text += f" {shared:,} of {test.sum():,} test images are of a patient that it has seen."
    return text


def warnings(data: Dataset) -> list[str]:
    """Return what must be read before the figures: the stages whose last run is unfinished."""
    said = []
    root = f"{Path(data.paths.root).resolve()}/"
    for stage, record in data.records.items():
        if stage.startswith(("train", "evaluate")) and record["status"] in words.STATUS:
            error = str(record.get("error") or "").replace(root, "")
            status = words.STATUS[record["status"]] + (f" ({error})" if error else "")
            again = command(stage.split("-")[0], data.name)
            text = f"The last run of {stage} {status}; figures are of an earlier run. Run: {again}"
            said.append(text)
    return said


def left_out(data: Dataset) -> list[str]:
    """Say which files and masks `data add` left out without calling it a failure."""
    parameters = data.records.get("add", {}).get("parameters") or {}
    skipped, masks = (parameters.get(name) or {} for name in ("skipped", "masks_left_out"))
    said = [f"{n:,} files not taken: {reason}" for reason, n in sorted(skipped.items())]
    said += [f"mask of {name} left out: {why}" for name, why in list(masks.items())[:8]]
    return said + ([f"masks left out of {len(masks) - 8:,} more images"] if len(masks) > 8 else [])


def identities(data: Dataset) -> dict[str, Any]:
    """Return what identifies the inputs of a dataset, and the last run of each stage."""
    kept = ("status", "started", "done", "skipped", "seconds", "parameters", "versions")
    stores = {"masks": data.masks, "features": data.features}
    return {
        "manifest": {"sha256": data.manifest_sha256, "classes": data.classes},
        **{name: dict(store.identity) for name, store in stores.items() if store is not None},
        "runs": {
            stage: {name: record[name] for name in kept if record.get(name)}
            for stage, record in data.records.items()
        },
    }


def as_yaml(value: Any) -> str:
    """Return JSON values as YAML, in their order."""
    return yaml.safe_dump(json.loads(json.dumps(value)), sort_keys=False, allow_unicode=True)


def differing(datasets: Sequence[Dataset], params: Params) -> list[str]:
    """Name the parameters that the last run of a stage was given with another value."""
    found: dict[str, list[str]] = {}
    for data in datasets:
        for stage, record in data.records.items():
            stage = stage.split("-")[0]
            section = getattr(params, stage, None)
            now = {} if section is None else section.model_dump(mode="json")
            held = record.get("parameters") or {}
            then = held[stage] if isinstance(held.get(stage), dict) else held
            other = {f"{stage}.{k}": then[k] for k in now if k in then and then[k] != now[k]}
            if held.get("profile", params.profile) != params.profile:
                other[f"profile of {stage}"] = held["profile"]
            for name, value in other.items():
                found.setdefault(f"{name}: {json.dumps(value)}", []).append(data.name)
    return [f"{what} in the run of {words.join(names)}" for what, names in sorted(found.items())]


def git_commit(root: Path) -> str:
    """Return the commit of the project folder, marked when files that decide figures differ."""

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(root), *arguments]
        return subprocess.check_output(asked, text=True, stderr=subprocess.DEVNULL).strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError):
        return "not in a git checkout"
    return f"{commit}, with local changes" if changed else commit
