"""Accuracy of CLIP-micro on whole images of the study: zero-shot and linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.encode.text import load_prompts
from pipeline.models.clip import ClipModel
from tools.pretrain.evaluate import interval

SETS = ("brain", "covid", "lung")


def embed_folder(clip: ClipModel, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Embed every image below a folder of class folders, squashed to the model's square.

    Args:
        clip: the loaded model.
        folder: the class of an image is the name of its folder.

    Returns:
        Unit vectors, float32 (n, d), and the n class names.
    """
    paths = sorted(p for p in folder.rglob("*.*") if p.is_file())
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (clip.mean, clip.std))
    side, parts = (clip.image_size,) * 2, []
    for start in range(0, len(paths), 32):
        pixels = [
            np.array(Image.open(p).convert("RGB").resize(side, Image.Resampling.BICUBIC))
            for p in paths[start : start + 32]
        ]
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        parts.append(F.normalize(clip.encode_image((images - mean) / std), dim=1))
    return torch.cat(parts).cpu().numpy(), np.array([p.parent.name for p in paths])


def judge(clip: ClipModel, data: Path, prompts: Path) -> list[dict[str, Any]]:
    """Measure accuracy on the test splits of the datasets that have one.

    Args:
        clip: the loaded model.
        data: folder of brain, covid, lung, each with train/ and test/.
        prompts: prompts.yaml; the vector of a class is the mean over its templates.

    Returns:
        For each set: set, n, chance (share of the largest class in the test part), and zero and
        probe, each [accuracy, low, high].
    """
    results = []
    for name in SETS:
        train_x, train_y = embed_folder(clip, data / name / "train")
        test_x, test_y = embed_folder(clip, data / name / "test")
        classes = sorted(set(train_y))
        by_class = load_prompts(prompts, name, classes).texts
        vectors = [F.normalize(clip.encode_text(by_class[c]), dim=1).mean(0) for c in classes]
        text = F.normalize(torch.stack(vectors), dim=1).cpu().numpy()
        zero = np.array(classes)[(test_x @ text.T).argmax(1)] == test_y
        probe = make_pipeline(
            StandardScaler(),
            LogisticRegressionCV(
                Cs=np.logspace(-5, 0, 6),
                cv=3,
                max_iter=500,
                scoring="accuracy",
                l1_ratios=(0.0,),
                use_legacy_attributes=False,
            ),
        ).fit(train_x, train_y)
        right = probe.predict(test_x) == test_y
        results.append(
            {
                "set": name,
                "n": len(test_y),
                "chance": float(max(np.mean(test_y == c) for c in classes)),
                "zero": [float(zero.mean()), *interval(zero.astype(float))],
                "probe": [float(right.mean()), *interval(right.astype(float))],
            }
        )
    return results
