"""The two sides of each task of `benchmarks.peers`: ours, and what people write or install.

A side is a function of the folder that `prepare` has filled. It loads its models and returns what
is timed, which returns an array; `agree` compares those of both sides. Weights are the same on both
sides. A peer has them in torch's own memory layout, as its own loader leaves them.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec as ImportSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.stage_speed import make_images
from pipeline.audit import audit_dataset
from pipeline.config import ModelSpec
from pipeline.encode.encode import encode_dataset
from pipeline.engine.options import RunOptions
from pipeline.engine.run import image_items
from pipeline.io import FileHashes
from pipeline.learners import Samples, get_learner
from pipeline.learners.prompts import ClassPrompts
from pipeline.manifest import read_manifest, row_file
from pipeline.models import ClipModel, Sam2ImagePredictor, load_clip, load_sam2
from pipeline.models.onnx_encoder import onnxruntime_for_clip, onnxruntime_for_sam2
from pipeline.models.sam2 import instantiate_sam2, sam2_config
from pipeline.segment.candidates import keep
from pipeline.segment.embeddings import EmbeddingMapper
from pipeline.segment.segment import segment_dataset
from pipeline.store import (
    EmbeddingStore,
    FeatureRow,
    FeatureStoreWriter,
    WorkItem,
    open_features,
    open_masks,
)
from tests.project import DATASET, Project

BATCH, ROWS, PER_SHARD, EPOCHS = 16, 10_000, 1000, 2
OPTIONS = RunOptions(batch_size=BATCH, force=True, progress=False)
WORDS = ("a glioma", "a meningioma", "a healthy brain", "a pituitary tumor")
Side = Callable[[Path], Callable[[], np.ndarray]]


class Task(NamedTuple):
    """What is compared; `rows` of a run, if they are not the images; `needs` is the module of a
    peer that the project does not depend on."""

    name: str
    peer: str
    ours: Side
    theirs: Side
    agree: Callable[[np.ndarray, np.ndarray, Path], str]
    rows: int = 0
    needs: str = ""


def prepare(
    folder: Path, tasks: list[str], images: int, side: int, sam2: str, data: Path | None
) -> None:
    """Make what both sides of some tasks read: images and the name of SAM2, a dataset with
    copies, a store."""
    make_images(Project(folder), images, side)
    if "audit" in tasks:
        make_copies(Project(folder / "films"), data)
    if {"read", "rows"} & {*tasks}:
        make_rows(folder)
    spec = {"name": sam2}
    if sam2 != "sam2-micro":  # the architecture counts here, not what it finds
        torch.manual_seed(0)
        spec |= {"checkpoint": str(folder / "sam2.pt")}
        torch.save(instantiate_sam2(sam2_config(sam2)["model"]).state_dict(), spec["checkpoint"])
    (folder / "sam2.json").write_text(json.dumps(spec))


def make_rows(folder: Path) -> None:
    """Write the same features to a store and to .npy files."""
    X = np.random.default_rng(0).standard_normal((ROWS, 1280), np.float32)
    ids = [f"{i:05d}.png" for i in range(ROWS)]
    identity = {"stage": "encode", "model": None, "texts": False}
    with FeatureStoreWriter(folder / "rows.zarr", identity, views=("whole",), dim=1280) as writer:
        row = {"sha256": "0" * 64, "label": "a", "split": "train"}
        items = [WorkItem(image_id, image_id, Path(image_id), 0, row) for image_id in ids]
        writer.plan(items)
        for start in range(0, ROWS, BATCH):
            part = items[start : start + BATCH]
            whole = X[start : start + BATCH, None]
            rows = zip(part, whole, strict=True)
            writer.write(part, [FeatureRow(i.image_id, x, mask_status="ok") for i, x in rows])
        writer.sync_manifest(pd.DataFrame({"image_id": ids, "label": "a", "split": "train"}))
        writer.finish()
    for start in range(0, ROWS, PER_SHARD):  # as clip-retrieval leaves them
        part = slice(start, start + PER_SHARD)
        np.save(folder / f"rows_{start:05d}.npy", X[part])
        pd.DataFrame({"image_id": ids[part]}).to_parquet(folder / f"rows_{start:05d}.parquet")


def make_copies(project: Project, data: Path) -> None:
    """Make a dataset of 100 films of covid_lung_overlap.csv, their copies with another contrast,
    and films of 150 other patients, from the folder of the four sets."""
    known, patient, films = [], [], []
    for row in pd.read_csv(data / "covid_lung_overlap.csv", dtype=str)[:100].itertuples():
        known.append([len(films), len(films) + 1])
        films += [data / row.path, data / row.lung_path]
        patient += [row.patient] * 2
    lung = sorted(data.glob("lung/t*/*/*"))
    others = {file.name.split("-000")[0].split("_")[0]: file for file in lung}
    others = [one for one in others.items() if one[0] not in patient][:150]
    patient += [who for who, _ in others]
    films = [read(file) for file in films + [file for _, file in others]]
    project.rows = [project.make_row(f"{i:04d}.png", film) for i, film in enumerate(films)]
    project.write()
    (project.paths.root / "known.json").write_text(json.dumps([known, patient]))


def files_of(folder: Path) -> dict[str, Path]:
    """Return the images by id, in the order of the manifest."""
    paths = Project(folder).paths
    data, manifest = paths.data(DATASET), read_manifest(paths.manifest(DATASET))
    return {row["image_id"]: Path(row_file(row, data)) for _, row in manifest.iterrows()}


def read(file: Path) -> np.ndarray:
    return np.array(Image.open(file).convert("RGB"))


def plain_sam2(folder: Path) -> Sam2ImagePredictor:
    """Return SAM2 as its own package builds it; only its input size and normalisation are set."""
    found = load_sam2(ModelSpec(**json.loads((folder / "sam2.json").read_text())))
    found.model.to(memory_format=torch.contiguous_format)
    del found.model.sam_prompt_encoder.get_dense_pe  # ours is cached
    return found


def plain_clip(folder: Path) -> tuple[ClipModel, Callable[[Image.Image], torch.Tensor]]:
    """Return CLIP as open_clip builds it, and its preprocessing."""
    clip = load_clip(Project(folder).params().models.clip)
    clip.model.to(memory_format=torch.contiguous_format)
    how = {"mean": clip.mean, "std": clip.std, "resize_mode": "longest"}
    return clip, open_clip.image_transform(clip.image_size, is_train=False, **how)


# Stage 1


def our_segment(folder: Path, prompt: str, onnx: bool = False) -> Callable[[], np.ndarray]:
    project, files = Project(folder), files_of(folder)
    sam2 = load_sam2(ModelSpec(**json.loads((folder / "sam2.json").read_text())))
    if onnx:
        onnxruntime_for_sam2(sam2)
    params = project.params(segment__prompt=prompt, segment__box_as_mask=False, segment__zoom=0)

    def run() -> np.ndarray:
        shutil.rmtree(project.paths.candidates(DATASET), ignore_errors=True)  # they are kept
        segment_dataset(DATASET, params, project.paths, OPTIONS, predictor=sam2)
        masks = open_masks(project.paths.masks(DATASET))
        return np.stack([masks[name] for name in files])

    return run


def sam2_loop(folder: Path, find: Callable[[Any, np.ndarray], np.ndarray]) -> Callable:
    def run() -> np.ndarray:
        found = []
        for name, file in files_of(folder).items():
            with torch.inference_mode():
                found.append(find(read(file)))
            np.savez_compressed(folder / f"{name}.npz", mask=found[-1])
        return np.stack(found)

    return run


def predictor_loop(folder: Path) -> Callable[[], np.ndarray]:
    """The loop of SAM2's notebook for images."""
    sam2 = plain_sam2(folder)

    def find(image: np.ndarray, share: float = 0.7) -> np.ndarray:
        (height, width), margin = image.shape[:2], (1 - share) / 2
        box = np.array([width, height, width, height]) * [margin, margin, 1 - margin, 1 - margin]
        sam2.set_image(image)
        return sam2.predict(box=np.float32(box), multimask_output=False)[0][0].astype(bool)

    return sam2_loop(folder, find)


def generator_loop(folder: Path) -> Callable[[], np.ndarray]:
    sam2 = plain_sam2(folder)
    generator = SAM2AutomaticMaskGenerator(sam2.model, points_per_side=8)
    generator.predictor = sam2  # its own is for frames of 1,024 pixels

    def find(image: np.ndarray) -> np.ndarray:
        parts = generator.generate(image)
        best = max(parts, key=lambda part: part["predicted_iou"], default=None)
        return np.zeros(image.shape[:2], bool) if best is None else best["segmentation"]

    return sam2_loop(folder, find)


def our_embeddings(folder: Path) -> Callable[[], np.ndarray]:
    paths = Project(folder).paths
    sam2 = load_sam2(ModelSpec(**json.loads((folder / "sam2.json").read_text())))
    manifest = read_manifest(paths.manifest(DATASET))

    def run() -> np.ndarray:
        shutil.rmtree(paths.embeddings(DATASET), ignore_errors=True)
        items, own = image_items(manifest, paths.data(DATASET)), EmbeddingMapper(sam2, None)
        keep(own, items, DATASET, manifest, paths, OPTIONS, FileHashes())
        store = EmbeddingStore(paths.embeddings(DATASET))
        return np.stack([store[item.image_id][-1].ravel() for item in items[:BATCH]])

    return run


def micro_sam(folder: Path) -> Callable[[], np.ndarray]:
    """micro-sam embeds in batches what it takes for slices of a volume; it knows SAM 1 only, so
    that SAM2 is given to it in the place of SAM's encoder."""
    from micro_sam.util import precompute_image_embeddings

    sam2 = plain_sam2(folder)
    model, show = sam2.model, sam2._transforms.transforms
    predictor = SimpleNamespace(
        reset_image=lambda: None,
        device="cpu",
        transform=SimpleNamespace(apply_image=lambda image: image),
        model=SimpleNamespace(
            preprocess=lambda pixels: show(pixels.float() / 255),
            image_encoder=lambda pixels: model.forward_image(pixels)["vision_features"],
        ),
    )

    def run() -> np.ndarray:
        images = np.stack([read(file) for file in files_of(folder).values()])
        how = {"ndim": 3, "batch_size": BATCH, "verbose": False}
        found = precompute_image_embeddings(predictor, images, **how)["features"]
        np.save(folder / "embeddings.npy", found)
        return found[:BATCH].reshape(len(images[:BATCH]), -1)

    return run


# Stage 2


def our_encode(folder: Path, onnx: bool = False) -> Callable[[], np.ndarray]:
    project = Project(folder)
    params = project.params(encode__views=["whole"], encode__geometry="pad")
    segment_dataset(DATASET, project.params(segment__prompt="full"), project.paths, OPTIONS)
    clip = load_clip(params.models.clip)
    if onnx:
        onnxruntime_for_clip(clip)

    def run() -> np.ndarray:
        encode_dataset(DATASET, params, project.paths, OPTIONS, clip=clip)
        store = open_features(project.paths.features(DATASET))
        return store.image_features("whole", list(files_of(folder)))

    return run


class Images(torch.utils.data.Dataset):
    """Files as CLIP's own preprocessing shows them."""

    def __init__(self, folder: Path, transform: Callable):
        self.files, self.transform = list(files_of(folder).values()), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def open_clip_loop(folder: Path) -> Callable[[], np.ndarray]:
    clip, transform = plain_clip(folder)

    def run() -> np.ndarray:
        loader = torch.utils.data.DataLoader(Images(folder, transform), BATCH, num_workers=2)
        with torch.inference_mode():
            found = [clip.model.encode_image(batch, normalize=True) for batch in loader]
        np.save(folder / "features.npy", torch.cat(found).numpy())
        return torch.cat(found).numpy()

    return run


def clip_retrieval(folder: Path) -> Callable[[], np.ndarray]:
    """clip-retrieval's own reader, mapper and writer; without the process of its logger."""
    from clip_retrieval.clip_inference import mapper, reader, runner, writer

    clip, transform = plain_clip(folder)
    mapper.load_clip = lambda **_: (clip.model, transform, None)
    what = {"enable_text": False, "enable_image": True, "enable_metadata": False}
    data = str(Project(folder).paths.data(DATASET))
    clips = {"clip_model": "", "use_jit": False, "use_mclip": False, "mclip_model": ""} | what
    run_one = runner.Runner(
        lambda keys: reader.FilesReader(keys, transform, None, data, BATCH, 2, **what),
        lambda: mapper.ClipMapper(**clips),
        lambda part: writer.NumpyWriter(
            part, str(folder / "retrieval"), output_partition_count=1, **what
        ),
        lambda part: mock.MagicMock(),
        1,
    )

    def run() -> np.ndarray:
        run_one(0)
        return np.load(folder / "retrieval/img_emb/img_emb_0.npy").astype(np.float32)

    return run


def thingsvision(folder: Path) -> Callable[[], np.ndarray]:
    """thingsvision's extractor of the last layer. Its release is for NumPy 1 and imports
    TensorFlow for other models: the one name is put back, the other module stands empty."""
    np.AxisError = np.exceptions.AxisError
    if importlib.util.find_spec("tensorflow") is None:
        for name in ("", ".keras", ".keras.applications", ".keras.layers"):
            spec = ImportSpec(f"tensorflow{name}", None)
            sys.modules[spec.name] = mock.MagicMock(__spec__=spec)
    from thingsvision.core.extraction.helpers import get_extractor_from_model

    clip, transform = plain_clip(folder)
    extractor = get_extractor_from_model(clip.model.visual, "cpu", "pt")

    def run() -> np.ndarray:
        loader = torch.utils.data.DataLoader(Images(folder, transform), BATCH, num_workers=2)
        found = extractor.extract_features(loader, module_name="head", flatten_acts=False)
        np.save(folder / "features.npy", found)
        return found

    return run


# Learners


def parts(n: int = 2000, d: int = 1280) -> list[Samples]:
    """Return two parts of n made images of four classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 2 * n)
    X = (rng.standard_normal((2 * n, d)) + 0.12 * rng.standard_normal((4, d))[y]).astype(np.float32)
    text = np.zeros((4, d), np.float32)
    return [Samples("whole", {"whole": X[k::2]}, y[k::2], text, tuple("abcd")) for k in (0, 1)]


def our_probe(folder: Path) -> Callable[[], np.ndarray]:
    cls, (train, val) = get_learner("linear-probe"), parts()
    return lambda: cls(cls.Parameters(), seed=0).fit(train, val).predict_proba(val)


def naive_probe(folder: Path) -> Callable[[], np.ndarray]:
    train, val = parts()

    def run() -> np.ndarray:
        scaler = StandardScaler().fit(train.X)
        X, X_val = scaler.transform(train.X), scaler.transform(val.X)
        grid = np.geomspace(1e-4, 1e2, 7)
        fits = [LogisticRegression(C=c, max_iter=300).fit(X, train.y) for c in grid]
        return max(fits, key=lambda fit: fit.score(X_val, val.y)).predict_proba(X_val)

    return run


def our_coop(folder: Path) -> Callable[[], np.ndarray]:
    """Training alone: the features are those of stage 2."""
    spec, cls = Project(folder).params().models.clip, get_learner("coop")
    clip, n = load_clip(spec), len(files_of(folder))
    X = np.random.default_rng(0).standard_normal((n, clip.embed_dim)).astype(np.float32)
    text, y = clip.encode_text(list(WORDS)).numpy(), np.arange(n) % len(WORDS)
    prompts = ClassPrompts(WORDS, ("{}.",), spec, clip.fingerprint)
    train = Samples("whole", {"whole": X}, y, text, prompts=prompts)
    prompts.tower()
    none, own = train.take(y[:0], labelled=True), cls.Parameters(epochs=EPOCHS)
    return lambda: cls(own, seed=0).fit(train, none).text_


def coop_loop(folder: Path) -> Callable[[], np.ndarray]:
    """As the authors train: 32 images a step, each through the image tower in each epoch."""
    clip, transform = plain_clip(folder)
    tower = ClassPrompts(WORDS, ("{}.",), Project(folder).params().models.clip, clip.fingerprint)
    tower = tower.tower()
    ids, places = tower.prompts(WORDS, 4)

    def run() -> np.ndarray:
        context = (torch.randn(1, 4, tower.width) * tower.std).requires_grad_()
        step = torch.optim.SGD([context], lr=0.002, momentum=0.9)
        loader = torch.utils.data.DataLoader(Images(folder, transform), 32, num_workers=2)
        for _ in range(EPOCHS):
            for n, batch in enumerate(loader):
                with torch.no_grad():
                    images = clip.model.encode_image(batch, normalize=True)
                text = tower.encode(ids, places, context.expand(len(WORDS), -1, -1))
                y = (32 * n + torch.arange(len(batch))) % len(WORDS)
                step.zero_grad()
                torch.nn.functional.cross_entropy(100 * images @ text.T, y).backward()
                step.step()
        return text.detach().numpy()

    return run


# The audit


def our_audit(folder: Path) -> Callable[[], np.ndarray]:
    project = Project(folder / "films")
    paths = project.paths

    def run() -> np.ndarray:
        paths.thumbnails(DATASET).unlink(missing_ok=True)
        audit_dataset(DATASET, project.params(), paths, OPTIONS)
        pairs = pd.read_parquet(paths.audit_pairs(DATASET))
        return np.array([[int(pairs[f"image_id_{k}"][i][:4]) for k in "ab"] for i in pairs.index])

    return run


def image_dedup(folder: Path) -> Callable[[], np.ndarray]:
    """Its documented call: a perceptual hash, and its own largest distance, 10 of 64 bits."""
    from imagededup.methods import PHash

    data = Project(folder / "films").paths.data(DATASET)

    def run() -> np.ndarray:
        how = {"num_enc_workers": 0, "num_dist_workers": 0}
        found = PHash(verbose=False).find_duplicates(image_dir=data, **how)
        return np.array([[int(a[:4]), int(b[:4])] for a in found for b in found[a]])

    return run


# Reading


def our_reading(folder: Path, count: int) -> Callable[[], np.ndarray]:
    ids = asked(count)
    return lambda: open_features(folder / "rows.zarr").image_features("whole", ids)


def shards(folder: Path, count: int) -> Callable[[], np.ndarray]:
    """Files of 1,000 rows, and their ids beside them; those of few rows are mapped."""
    ids = asked(count)

    def run() -> np.ndarray:
        tables = [
            pd.read_parquet(file)["image_id"] for file in sorted(folder.glob("rows_*.parquet"))
        ]
        at = pd.Index(pd.concat(tables)).get_indexer(ids)
        mode = None if count == ROWS else "r"
        arrays = [np.load(file, mmap_mode=mode) for file in sorted(folder.glob("rows_*.npy"))]
        if count == ROWS:
            return np.concatenate(arrays)[at]
        return np.stack([arrays[i // PER_SHARD][i % PER_SHARD] for i in at])

    return run


def asked(count: int) -> list[str]:
    return [f"{i:05d}.png" for i in np.random.default_rng(2).permutation(ROWS)[:count]]


# Comparisons


def equal(ours: np.ndarray, theirs: np.ndarray, folder: Path) -> str:
    return f"{np.mean(ours == theirs):.4f} equal"


def cosine(ours: np.ndarray, theirs: np.ndarray, folder: Path) -> str:
    length = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return f"cosine {((ours * theirs).sum(axis=1) / length).min():.4f}"


def same_class(ours: np.ndarray, theirs: np.ndarray, folder: Path) -> str:
    return f"{np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1)):.4f} of classes"


def no_result(ours: np.ndarray, theirs: np.ndarray, folder: Path) -> str:
    return ""


def found_copies(ours: np.ndarray, theirs: np.ndarray, folder: Path) -> str:
    """Return the share of known copies found, and how many pairs of different patients."""
    known, patient = json.loads((folder / "films/known.json").read_text())
    texts = []
    for pairs in (ours, theirs):
        pairs = {tuple(sorted(map(int, pair))) for pair in pairs}
        hit = sum(tuple(pair) in pairs for pair in known) / len(known)
        false = sum(patient[a] != patient[b] for a, b in pairs)
        texts.append(f"{hit:.3f} found, {false} false")
    return "; peer ".join(texts)


# fmt: off
LOADED = "open_clip and a DataLoader"
TASKS = {
    "box": Task("segment, prompt center-box", "SAM2ImagePredictor in a loop",
                partial(our_segment, prompt="center-box"), predictor_loop, equal),
    "onnx": Task("segment, center-box, runtime: onnxruntime", "SAM2ImagePredictor in a loop",
                 partial(our_segment, prompt="center-box", onnx=True), predictor_loop, equal,
                 needs="onnxruntime"),
    "auto": Task("segment, prompt auto", "SAM2AutomaticMaskGenerator, 8 x 8 points",
                 partial(our_segment, prompt="auto"), generator_loop, equal),
    "embeddings": Task("segment, embeddings alone", "micro-sam", our_embeddings, micro_sam, cosine,
                       needs="micro_sam"),
    "encode": Task("encode, view whole", LOADED, our_encode, open_clip_loop, cosine),
    "encode-onnx": Task("encode, view whole, runtime: onnxruntime", LOADED,
                        partial(our_encode, onnx=True), open_clip_loop, cosine,
                        needs="onnxruntime"),
    "retrieval": Task("encode, view whole", "clip-retrieval", our_encode, clip_retrieval, cosine,
                      needs="clip_retrieval"),
    "things": Task("encode, view whole", "thingsvision", our_encode, thingsvision, cosine,
                   needs="thingsvision"),
    "probe": Task("linear probe, 7 values of C", "scikit-learn, each C anew", our_probe,
                  naive_probe, same_class, 2000),
    "coop": Task(f"CoOp, {EPOCHS} epochs", "the authors' loop", our_coop, coop_loop, no_result),
    "audit": Task("audit", "imagededup, PHash", our_audit, image_dedup, found_copies, 350,
                  needs="imagededup"),
    "read": Task(f"read {ROWS:,} rows", ".npy files of 1,000 rows and their ids",
                 partial(our_reading, count=ROWS), partial(shards, count=ROWS), equal, ROWS),
    "rows": Task(f"read 100 of {ROWS:,} rows", ".npy files of 1,000 rows and their ids",
                 partial(our_reading, count=100), partial(shards, count=100), equal, 100),
}
# fmt: on
