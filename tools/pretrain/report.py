"""Evaluate the finished weights and write model cards, measurements and training hashes."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pipeline.config import ModelSpec
from pipeline.io import atomic_write_json, sha256_file
from pipeline.models.checkpoint import LITE0_SHA256, MINILM_SHA256
from pipeline.models.clip import load_clip
from pipeline.models.sam2 import load_sam2
from tools.pretrain import clip_projection, evaluate, judge_clip
from tools.pretrain.card import Measured, summarise, table, write_card
from tools.pretrain.data import PHANTOMS, Item
from tools.pretrain.hashes import DIGITS, write_hashes

log = logging.getLogger(__name__)


def lung_overlap(data: Path) -> tuple[int, int]:
    """Return the number of lung test images of persons in the training images, and the total."""
    with open(data / "segmentation/lung_train.csv", newline="", encoding="utf-8") as file:
        seen = {Path(row["image"]).stem.split("_")[0] for row in csv.DictReader(file)}
    test = [p.stem.split("_")[0] for p in (data / "data/lung/test").rglob("*.*") if p.is_file()]
    return sum(person in seen for person in test), len(test)


def report_sam2(
    items: list[Item], data: Path, weights: Path, cards: Path, limit: int | None = None
) -> str:
    """Measure SAM2-micro and write its card, figures and hashes.

    Args:
        items: of `data.load_sets`, as used for training.
        data: folder of segmentation/ and data/.
        weights: sam2-micro.safetensors.
        cards: folder of the cards.
        limit: maximum number of images per study dataset, evenly spaced; None for all.

    Returns:
        The default strategy, chosen on the held-out images.
    """
    predictor = load_sam2(ModelSpec(name="sam2-micro", checkpoint=str(weights)))
    held: Measured = evaluate.measure(predictor, evaluate.held_out_cases(items))
    default = evaluate.choose_default(held)
    log.info("held out:\n%s\ndefault prompt: %s", table(summarise(held)), default)
    study: Measured = evaluate.measure(
        predictor, evaluate.four_sets(data / "data", limit), evaluate.STUDY_PROMPTS
    )
    log.info("study:\n%s", table(summarise(study)))
    with safe_open(weights, "pt") as file:
        about = file.metadata()
    config = json.loads(about["config"])
    counts = Counter(item.set for item in items)
    overlap, test = lung_overlap(data)
    facts: dict[str, Any] = {
        "sam2_version": version("sam2"),
        "size": predictor.image_size,
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "encoder_parameters": sum(p.numel() for p in predictor.model.image_encoder.parameters()),
        "sha256": sha256_file(weights),
        "steps": int(about["steps"]),
        "batch": config["batch"],
        "seed": config["seed"],
        "minutes": int(about["seconds"]) / 60,
        "deterministic": "deterministic" in about,
        "counts": dict(counts),
        "phantoms": sum(PHANTOMS.values()),
        "held_out": sum(item.held_out for item in items),
        "lung_patients": overlap,
        "lung_test": test,
        "digits": DIGITS,
        "hashes": write_hashes(items, cards / "training-hashes.txt.gz"),
        "limit": limit,
        "study": summarise(study),
        "held": summarise(held),
        "default": default,
    }
    atomic_write_json(cards / "sam2-micro.json", facts)
    write_card("sam2-micro", cards / "sam2-micro.md", facts)
    return default


def report_clip(weights: Path, cards: Path, data: Path | None, prompts: Path) -> None:
    """Measure CLIP-micro and write its card and figures.

    Args:
        weights: clip-micro.safetensors, of `clip_projection.make_clip`.
        cards: folder of the cards.
        data: folder of the four sets; None leaves zero-shot and linear probe out.
        prompts: prompts.yaml.
    """
    model = load_clip(ModelSpec(name="clip-micro", checkpoint=str(weights)))
    facts: dict[str, Any] = {
        "dim": model.embed_dim,
        "context": model.context_length,
        "sha256": sha256_file(weights),
        "lite0": LITE0_SHA256,
        "minilm": MINILM_SHA256,
        "ridge": clip_projection.RIDGE,
        "templates": list(clip_projection.TEMPLATES),
        "retrieval": clip_projection.retrieval(*clip_projection.training_pairs()),
        "study": [] if data is None else judge_clip.judge(model, data, prompts),
    }
    atomic_write_json(cards / "clip-micro.json", facts)
    write_card("clip-micro", cards / "clip-micro.md", facts)
