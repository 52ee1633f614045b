"""Segment a sample with every prompt strategy and judge the masks: prompt_quality.parquet."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config import Params, PromptQualityParams
from pipeline.engine import RunRecord, WorkItem
from pipeline.engine.from_manifest import add_truth, image_items, select
from pipeline.engine.loader import Loaded, load_in_order
from pipeline.engine.progress import Progress
from pipeline.engine.record import library_versions
from pipeline.engine.recorded import recorded
from pipeline.engine.signals import Interrupts
from pipeline.errors import ConfigError, reason_of
from pipeline.manifest import read_manifest
from pipeline.models import Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.prompt_quality.judging import Judge, compare
from pipeline.prompt_quality.sample import truth_sample
from pipeline.prompt_quality.table import FIGURES, Row, read_rows, write_rows
from pipeline.segment.segment import load_predictor

BATCH_SIZE = 8
SAVE_EVERY = 30.0
"""Seconds of work that a killed run may lose."""


def judge_prompts(
    dataset: str,
    params: Params,
    paths: Paths,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    limit: int | None = None,
    only: Collection[str] | None = None,
    force: bool = False,
    predictor: Sam2ImagePredictor | None = None,
) -> RunRecord:
    """Judge every strategy of `prompt_quality.strategies` on a sample with ground truth.

    Writes cache/<dataset>/prompt_quality.parquet, one row an image and strategy: `dice`, `iou`,
    `hd95` (pixels of the image), areas as shares of the image, `from_truth`, `note`. A strategy
    that needs a box or clicks (`box`, `points`) gets them from the ground truth, with the box's
    edges moved by `box_jitter`; beside `box` stands `box-ellipse`, the ellipse in the same box.
    These are references; no mask made here is used by another stage.

    Rows that the file holds already, made of the same image, truth, model and parameters, are
    kept: an interrupted run goes on where it was, and a larger sample adds to a smaller one.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        params: `prompt_quality`, `segment` (but its `prompt`) and the profile's `sam2` are read.
        paths: the project folder.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images in one forward pass; masks do not depend on it.
        workers: loader threads.
        limit: judge at most so many more images; what the file holds is kept.
        only: ids to work on, of those that the sample has; default all.
        force: judge images again that are there.
        predictor: a SAM2 that is loaded already, instead of the profile's.

    Returns:
        The record of the run, also written to cache/<dataset>/records/prompt_quality.json.

    Raises:
        ManifestError, ModelError, ConfigError: nothing could be done; what to mend.
        StageFailed: more images failed than `prompt_quality.max_failed` allows; the others are
            judged.
        KeyboardInterrupt: SIGINT or SIGTERM came; what was judged is kept.
    """
    record = RunRecord(
        "prompt_quality",
        dataset,
        versions=library_versions(),
        parameters={
            "profile": params.profile,
            "prompt_quality": params.prompt_quality.model_dump(mode="json"),
        },
    )
    manifest = read_manifest(paths.manifest(dataset))
    sample = truth_sample(
        manifest, sample_size(manifest, params.prompt_quality), params.prompt_quality.seed
    )
    asked = set(select(manifest, only)["image_id"]).intersection(sample["image_id"])
    if only is not None and not asked:
        raise ConfigError(
            "none of these images is in the sample of those with ground truth",
            remedy="take all of them as the sample: --images 0",
        )
    path, max_failed = paths.record(dataset, "prompt_quality"), params.prompt_quality.max_failed
    with (
        Interrupts() as signals,
        recorded(record, path, max_failed=max_failed, stopped=signals.stopped),
    ):
        if sample.empty:  # a set without ground truth: nothing to load a model for
            write_rows([], paths.prompt_quality(dataset))
            return record
        data = paths.data(dataset)
        items = image_items(sample, data, lambda row: {"truth": add_truth(row, data)})
        judge = Judge(params, predictor or load_predictor(params, device))
        run = _Run(judge, items, record, paths.prompt_quality(dataset))
        run.choose(asked, limit, force=force)
        run.go(workers, batch_size or BATCH_SIZE, signals.stopped)
    return record


def sample_size(manifest: pd.DataFrame, params: PromptQualityParams) -> int:
    """How many images of a dataset are judged: few of phantoms, whose figures mean little."""
    synthetic = bool((manifest["synthetic"] == "1").any())
    return params.phantoms if synthetic else params.images


class _Run:
    """The rows of one run, by (image_id, strategy)."""

    def __init__(self, judge: Judge, items: Sequence[WorkItem], record: RunRecord, out: Path):
        self.judge, self.items, self.record, self.out = judge, items, record, out
        self.rows: dict[tuple[str, str], Row] = {}
        self.todo: list[WorkItem] = []
        self.saved = time.monotonic()
        record.seconds.update({"load_wait": 0.0, "model": 0.0, "judge": 0.0})
        self._keep(read_rows(out))

    def _keep(self, rows: dict[tuple[str, str], Row]) -> None:
        """Take over those rows of an earlier run that would come out the same."""
        for item in self.items:
            for name in self.judge.names:
                row = rows.get((item.image_id, name))
                if row is not None and row["key"] == self.judge.key(item, name):
                    # Labels and parts are the manifest's of today; they decide no figure.
                    now = {"label": item.row["label"], "split": item.row["split"]}
                    self.rows[item.image_id, name] = row | now

    def choose(self, asked: Collection[str], limit: int | None, *, force: bool) -> None:
        """Settle what is to do: of the images asked for, those whose rows are not all there."""
        here = [item for item in self.items if item.image_id in asked]
        self.todo = [
            item
            for item in here
            if force or any((item.image_id, name) not in self.rows for name in self.judge.names)
        ]
        self.record.skipped = len(here) - len(self.todo)
        self.todo = self.todo[:limit]
        self.record.total = self.record.skipped + len(self.todo)

    def go(self, workers: int | None, batch_size: int, stopped: Callable[[], bool]) -> None:
        """Judge what is to do; what was judged is written, however this ends."""
        judging = f"{self.record.stage} {self.record.dataset}"
        loaded = load_in_order(
            self.todo, self.judge.load, workers=workers, ahead=2 * batch_size, stopped=stopped
        )
        try:
            with Progress(judging, len(self.todo), reused=self.record.skipped) as progress:
                while (batch := self.take(loaded, batch_size)) and not stopped():
                    failed = self.add(batch)
                    progress.add(done=len(batch) - failed, failed=failed)
        finally:
            self.save()

    def take(self, loaded: Iterator[Loaded], count: int) -> list[Loaded]:
        """Wait for the next images."""
        with self.record.clock("load_wait"):
            return list(islice(loaded, count))

    def add(self, batch: Sequence[Loaded]) -> int:
        """Judge a batch of loaded images; return how many of them failed.

        A failed one gets rows with a note and no figures, so that it is counted.
        """
        ready = [(item, case) for item, case, error in batch if error is None]
        for item, _, error in batch:
            if error is not None:
                why = reason_of(error)
                self.record.failed[item.image_id] = why
                for name in self.judge.names:
                    self.put(item, name, dict.fromkeys(FIGURES, np.nan), why)
        with self.record.clock("model"):
            found = list(self.judge.masks([case for _, case in ready])) if ready else []
        with self.record.clock("judge"):
            for name, masks in found:
                for (item, case), mask in zip(ready, masks, strict=True):
                    note = "" if mask.any() else "empty mask: HD95 not defined"
                    self.put(item, name, compare(mask, case.truth), note)
        self.record.done += len(ready)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()
        return len(batch) - len(ready)

    def put(self, item: WorkItem, name: str, figures: dict[str, float], note: str) -> None:
        """Set one row."""
        row: dict[str, Any] = {"image_id": item.image_id, "strategy": name, **figures}
        row |= {"label": item.row["label"], "split": item.row["split"], "note": note}
        row |= {"from_truth": self.judge.from_truth(name), "key": self.judge.key(item, name)}
        self.rows[item.image_id, name] = row

    def save(self) -> None:
        """Write all rows so far, in the order of the sample."""
        order = [(item.image_id, name) for item in self.items for name in self.judge.names]
        write_rows([self.rows[where] for where in order if where in self.rows], self.out)
        self.saved = time.monotonic()
