"""Classify new images: x -> m = SAM2(x) -> I = E_v(view) -> class probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Params, parts_of
from pipeline.encode.encode import load_encoder
from pipeline.encode.mapper import EncodeMapper
from pipeline.encode.pixels import PixelMapper, Pixels
from pipeline.engine.options import RunOptions
from pipeline.engine.run import LocalExecutor
from pipeline.errors import ImageError, PipelineError, StoreError, reason_of
from pipeline.images import probe, read_image
from pipeline.images.overlay import draw_outlines
from pipeline.io import atomic_write, sha256_file
from pipeline.learners import Samples
from pipeline.learners.base import check_finite
from pipeline.learners.choose import Choice, choose_run
from pipeline.learners.joint import predict_joined
from pipeline.learners.prompts import ClassPrompts
from pipeline.learners.runs import encoded_with_other_masks, load_fitted
from pipeline.paths import Paths
from pipeline.segment.segment import build_mapper
from pipeline.store import WorkItem, open_features, open_masks
from pipeline.store.items import canonical, identity_diff

BATCH_SIZE = 8


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of one image.

    Args:
        image: path, with "#frame" if the file has several frames.
        probabilities: of each class; they sum to 1.
        mask_status: "ok" | "empty" | "full".
        overlay: path of the PNG with the outline of the mask.
    """

    image: str
    probabilities: dict[str, float]
    mask_status: str
    overlay: str

    def __str__(self) -> str:
        """Return one line, the most likely class first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        shares = "  ".join(f"{name} {share:.3f}" for name, share in ranked)
        return f"{self.image}: {shares}  (mask {self.mask_status}, {self.overlay})"


@dataclass
class Predictions:
    """All predictions of one call: of which learner, view and seeds, the accuracy on validation if
    that chose them, and why images failed."""

    learner: str
    view: str
    seeds: list[int]
    val_accuracy: float | None = None
    images: list[ImagePrediction] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return all of it as JSON; each image also has its most likely class as `label`."""
        best = [max(row.probabilities, key=row.probabilities.get) for row in self.images]
        rows = [vars(row) | {"label": one} for row, one in zip(self.images, best, strict=True)]
        return json.dumps(vars(self) | {"images": rows}, indent=2, ensure_ascii=False)

    def failures(self) -> list[str]:
        """Return one line for each image that failed."""
        return [f"failed: {reason}" for reason in self.failed.values()]


def predict_images(
    dataset: str,
    images: list[Path],
    params: Params,
    paths: Paths,
    options: RunOptions = RunOptions(),
    *,
    learner: str | None = None,
    view: str | None = None,
    out: Path = Path("predictions"),
    on_result: Callable[[object], None] = lambda line: None,
) -> Predictions:
    """Classify new images with a learner trained on a dataset.

    Uses the fits of protocol "official" at the largest fraction, one per seed, and averages their
    probabilities. Masks and features are made as params.yaml says, which must agree with the
    feature store of the dataset. Each frame of a file is an image of its own.

    Args:
        dataset: name of data_manifests/<dataset>.csv.
        images: files of any supported format.
        params: as for `segment` and `encode`.
        paths: of the project folder.
        options: device, batch size and workers are used.
        learner, view: which fits are used; None: those that did best on validation (`choose_run`).
        out: folder for the overlays (image with the outline of the mask), one PNG per image.
        on_result: called with the heading, then with each `ImagePrediction` as soon as it is made.

    Raises:
        PipelineError: this learner was not trained on this view, or none was; or the view is one
            of adapted masks.
        StoreError: the parameters differ from those of the features, or masks, features and
            learner do not belong to the same run.
    """
    if learner is None or view is None:
        chosen = choose_run(dataset, params, paths, learner, view)
    else:
        chosen = Choice(learner, view, None, 1)
    mapper = PredictMapper(dataset, params, paths, chosen.learner, chosen.view, options)
    seeds = mapper.fitted.seeds
    outcome = Predictions(chosen.learner, chosen.view, seeds, chosen.val_accuracy)
    items: list[WorkItem] = []
    for path in images:
        try:
            frames, digest = [one.frame for one in probe(path)], sha256_file(path)
        except (ImageError, OSError) as error:
            outcome.failed[str(path)] = reason_of(error)
            continue
        for frame in frames:
            name = str(path) if len(frames) == 1 else f"{path}#{frame}"
            # The key is the seed of the random view: that of the stages for these bytes.
            items.append(WorkItem(name, f"{digest}#{frame}", path, frame))
    executor = LocalExecutor(options.batch_size or BATCH_SIZE, options.workers)
    on_result(f"{chosen}; mean of {len(seeds)} seeds")
    with closing(executor.imap(lambda: mapper, items)) as results:
        for item, found, error in results:
            if error is not None:
                outcome.failed[item.image_id] = reason_of(error)
                continue
            image, mask, status, probabilities = found
            overlay = out / f"{len(outcome.images):03d}_{item.path.stem}.png"
            with atomic_write(overlay) as partial:
                draw_outlines(image, mask, size=max(image.shape)).save(partial)
            row = ImagePrediction(item.image_id, probabilities, status, str(overlay))
            outcome.images.append(row)
            on_result(row)
    return outcome


class PredictMapper:
    """Images to class probabilities, as a mapper of the engine; arguments of `predict_images`."""

    def __init__(
        self, dataset: str, params: Params, paths: Paths, learner: str, view: str, run: RunOptions
    ):
        self.view = "+".join(parts_of(view))
        if "@" in self.view:
            raise PipelineError(
                f"view {view} is of masks that an adapter made for one test part of this dataset; "
                "there is none for new images",
                path=paths.run(dataset, learner),
                remedy="choose a --view without @, or none: the best of these on validation",
            )
        self.fitted = load_fitted(paths, dataset, learner, view=view)
        features, masks = open_features(paths.features(dataset)), open_masks(paths.masks(dataset))
        _check_same(paths.run(dataset, learner), self.fitted.features, features.identity)
        if other := encoded_with_other_masks(features, masks):
            raise StoreError(
                f"{len(other)} images were encoded with other masks than segment has made since",
                path=paths.features(dataset),
                remedy=f"run pipeline encode, then train, with --dataset {dataset}",
            )
        clip = load_encoder(params, run)
        self.segmenter = build_mapper(dataset, params, paths, run)
        _check_same(paths.masks(dataset), masks.identity, self.segmenter.identity)
        self.window = params.images.shown
        encoder = EncodeMapper(params.encode, clip, {}, window=self.window)
        _check_same(paths.features(dataset), features.identity, encoder.identity)
        first = self.fitted.learners[0]
        self.views = first.views(view)  # those alone are encoded
        needed = params.encode.model_copy(update={"views": self.views})
        self.encoder = EncodeMapper(needed, clip, {}, window=self.window)
        self.device = encoder.device
        self.text, self.prompts = features.class_features(self.fitted.classes), None
        if "prompts" in first.needs:
            self.prompts = ClassPrompts.of(features, self.fitted.classes, params.models.clip)
        self.frames = None
        if "pixels" in first.needs:
            size = first.frame_size(clip.image_size)
            self.frames = PixelMapper(features.identity, view, size, {}, self.window)
            self.clip = params.models.clip, features.identity["model"]["fingerprint"]

    def load(self, item: WorkItem) -> np.ndarray:
        """Read an image."""
        return read_image(item.path, item.frame, window=self.window)

    def map(self, items: Sequence[WorkItem], loaded: Sequence[np.ndarray]) -> list[tuple]:
        """Return for each image: the image, its mask, the mask's status, class probabilities."""
        row = {"box": "", "points": "", "truth_file": ""}
        masks = self.segmenter.map(items, [self.segmenter.prepare(x, row) for x in loaded])
        every = zip(loaded, masks, items, strict=True)
        views = [self.encoder.prepare(x, m.mask, m.status, item.key) for x, m, item in every]
        encoded = self.encoder.encode(views)
        rows = []
        classes, none = tuple(self.fitted.classes), np.zeros(0, np.int64)
        for n, (image, mask, item) in enumerate(zip(loaded, masks, items, strict=True)):
            pooled = [] if encoded.pooled is None else encoded.pooled[n]
            names = (*self.encoder.frames, *self.encoder.pooled)
            each = zip(names, [*encoded.features[n], *pooled], strict=True)
            by_view = {name: feature[None] for name, feature in each}
            sample = Samples(self.view, by_view, none, self.text, classes, prompts=self.prompts)
            if self.frames is not None:
                frame = self.frames.prepare(image, mask.mask, mask.status, item.key)
                one = np.zeros(1, np.int64), np.array([item.key], object)
                pixels = Pixels(frame[None], len(frame), *one, *self.clip)
                sample = replace(sample, pixels=pixels)
            every = [predict_joined(learner, sample) for learner in self.fitted.learners]
            proba = np.mean(every, axis=0)[0]
            check_finite("a class probability (is there such a view of new images?)", proba)
            named = dict(zip(classes, map(float, proba), strict=True))
            rows.append((image, mask.mask, mask.status, named))
        return rows


def _check_same(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse models or parameters other than those that the learner was trained with."""
    now = canonical(now)  # a store's identity has more entries, such as the length of a feature
    differences = identity_diff({key: stored.get(key) for key in now}, now)
    if differences:
        message = "made with other choices: " + "; ".join(differences)
        raise StoreError(message, path=path, remedy="set them back, or run the stages again")
