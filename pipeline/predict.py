"""Classify new images: x -> m = SAM2(x) -> I = E_v(view) -> class probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Params
from pipeline.encode import EncodeMapper, encode_images
from pipeline.encode.encode import load_encoder
from pipeline.engine import LocalExecutor, RunOptions, WorkItem
from pipeline.engine.progress import Progress
from pipeline.errors import ImageError, StoreError, reason_of
from pipeline.images import probe, read_image
from pipeline.images.overlay import draw_outlines
from pipeline.io import atomic_write, sha256_file
from pipeline.learners import Samples
from pipeline.learners.data import encoded_with_other_masks
from pipeline.learners.runs import Fitted, load_fitted
from pipeline.models import ClipModel, Sam2ImagePredictor
from pipeline.paths import Paths
from pipeline.segment import segment_images
from pipeline.segment.segment import make_mapper
from pipeline.store import open_features, open_masks
from pipeline.store.identity import canonical, identity_diff

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

    @property
    def label(self) -> str:
        """The most likely class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    def __str__(self) -> str:
        """Return one line, the most likely class first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        shares = "  ".join(f"{name} {share:.3f}" for name, share in ranked)
        return f"{self.image}: {shares}  (mask {self.mask_status}, {self.overlay})"


@dataclass
class Predictions:
    """All predictions of one call.

    Args:
        learner: name of the learner.
        view: that it was trained on.
        seeds: of the fits whose probabilities are averaged.
        images: one prediction per image.
        failed: image -> reason why it could not be read.
    """

    learner: str
    view: str
    seeds: list[int]
    images: list[ImagePrediction] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return all of it as JSON; each image also has its most likely class as `label`."""
        rows = [vars(row) | {"label": row.label} for row in self.images]
        return json.dumps(vars(self) | {"images": rows}, indent=2, ensure_ascii=False)

    def failures(self) -> list[str]:
        """Return one line for each image that failed."""
        return [f"{image}: failed, {reason}" for image, reason in self.failed.items()]


def predict_images(
    dataset: str,
    images: list[Path],
    params: Params,
    paths: Paths,
    options: RunOptions | None = None,
    *,
    learner: str = "medfocus",
    view: str = "masked",
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
        options: device, batch size, workers and progress are used.
        learner: name of the learner.
        view: that it was trained on.
        out: folder for the overlays (image with the outline of the mask), one PNG per image.
        on_result: called with the heading, then with each `ImagePrediction` as soon as it is made.

    Raises:
        PipelineError: this learner was not trained on this view.
        StoreError: the parameters differ from those of the features, or masks, features and
            learner do not belong to the same run.
    """
    options = options or RunOptions()
    mapper = _load_mapper(dataset, params, paths, learner, view, options)
    outcome = Predictions(learner, view, mapper.fitted.seeds)
    items = list(_frames(images, outcome.failed))
    executor = LocalExecutor(options.batch_size or BATCH_SIZE, options.workers)
    seeds = len(outcome.seeds)
    on_result(f"learner {learner}, view {view}, mean of {seeds} seeds")
    with (
        Progress(f"predict {dataset}", len(items), show=options.progress) as progress,
        closing(executor.imap(lambda: mapper, items)) as results,
    ):
        for result in results:
            item = result.item
            if result.error is not None:
                outcome.failed[item.image_id] = _reason(result.error)
                progress.add(failed=1)
                continue
            image, mask, status, probabilities = result.row
            overlay = out / f"{len(outcome.images):03d}_{item.path.stem}.png"
            with atomic_write(overlay) as partial:
                draw_outlines(image, mask, size=max(image.shape)).save(partial)
            row = ImagePrediction(item.image_id, probabilities, status, str(overlay))
            outcome.images.append(row)
            on_result(row)
            progress.add(done=1)
    return outcome


@dataclass(frozen=True)
class PredictMapper:
    """Images to class probabilities, as a mapper of the engine.

    Args:
        params: sections `segment` and `encode`.
        view: that the learner was trained on.
        sam2: None for strategies without a model.
        clip: the image encoder.
        fitted: the fits of all seeds.
        text: text features of the classes, float32 (C, d).
    """

    params: Params
    view: str
    sam2: Sam2ImagePredictor | None
    clip: ClipModel
    fitted: Fitted
    text: np.ndarray

    @property
    def device(self) -> str:
        """Where the models compute."""
        return self.clip.device.type

    def load(self, item: WorkItem) -> np.ndarray:
        """Read an image."""
        return read_image(item.path, item.frame)

    def map(
        self, items: Sequence[WorkItem], loaded: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray, str, dict[str, float]]]:
        """Return for each image: the image, its mask, the mask's status, class probabilities."""
        masks = segment_images(loaded, self.params.segment, self.sam2)
        features = encode_images(
            loaded,
            [mask.mask for mask in masks],
            self.params.encode,
            self.clip,
            views=[self.view],
            statuses=[mask.status for mask in masks],
            seeds=[item.key for item in items],
        )
        rows = []
        classes, none = tuple(self.fitted.classes), np.zeros(0, np.int64)
        for image, mask, feature in zip(loaded, masks, features, strict=True):
            sample = Samples(self.view, {self.view: feature}, none, self.text, classes)
            every = [learner.predict_proba(sample) for learner in self.fitted.learners]
            proba = np.mean(every, axis=0)[0]
            named = dict(zip(classes, map(float, proba), strict=True))
            rows.append((image, mask.mask, mask.status, named))
        return rows


def _load_mapper(
    dataset: str, params: Params, paths: Paths, learner: str, view: str, options: RunOptions
) -> PredictMapper:
    """Load models and fits, after checking that masks, features and fits belong together."""
    fitted = load_fitted(paths, dataset, learner, view=view)
    features, masks = open_features(paths.features(dataset)), open_masks(paths.masks(dataset))
    _check_same(paths.run(dataset, learner), fitted.features, features.identity)
    if other := encoded_with_other_masks(features, masks):
        raise StoreError(
            f"{len(other)} images were encoded with other masks than segment has made since",
            path=paths.features(dataset),
            remedy=f"run pipeline encode, then train, with --dataset {dataset}",
        )
    segmenter = make_mapper(params, options)
    clip = load_encoder(params, options)
    _check_same(paths.masks(dataset), masks.identity, segmenter.identity)
    encoder = EncodeMapper(params.encode, clip, {})
    _check_same(paths.features(dataset), features.identity, encoder.identity)
    sam2 = segmenter.models.sam2 and segmenter.models.sam2.predictor
    text = features.class_features(fitted.classes)
    return PredictMapper(params, view, sam2, clip, fitted, text)


def _frames(images: Sequence[Path], failed: dict[str, str]) -> Iterator[WorkItem]:
    """Yield one item per frame; add files that cannot be opened to `failed`, with the reason.

    The key is the seed of the random view: the same that the stages use for these bytes.
    """
    for path in images:
        try:
            numbers = [one.frame for one in probe(path)]
            digest = sha256_file(path)
        except (ImageError, OSError) as error:
            failed[str(path)] = _reason(error)
            continue
        for number in numbers:
            name = str(path) if len(numbers) == 1 else f"{path}#{number}"
            yield WorkItem(name, f"{digest}#{number}", path, number)


def _reason(error: Exception) -> str:
    """Return why an image failed, without its name, which the line starts with."""
    if isinstance(error, ImageError):
        return error.with_remedy
    return (isinstance(error, OSError) and error.strerror) or reason_of(error)


def _check_same(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse models or parameters other than those that the learner was trained with.

    The identity of a store may have more entries than that of a mapper (the length of a feature);
    these are ignored.
    """
    now = canonical(now)
    differences = identity_diff({key: stored.get(key) for key in now}, now)
    if differences:
        raise StoreError(
            "made with other choices: " + "; ".join(differences),
            path=path,
            remedy="set them back, or run the stages again",
        )
