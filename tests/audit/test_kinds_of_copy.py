"""Every kind of copy is found as what it is, and images that are no copies are left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from skimage.exposure import equalize_hist, rescale_intensity
from skimage.transform import resize

from pipeline.audit import audit_dataset
from tests.audit.folder import SIDE, Folder, film, params, texture


def resaved(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=30)
    return np.asarray(Image.open(stream))


def shifted(image, down, right):
    """What a viewer shows when the picture is moved and its edge continued."""
    padded = np.pad(image, 8, mode="edge")
    return padded[8 - down : 8 - down + SIDE, 8 - right : 8 - right + SIDE]


COPIES = {
    "resaved": (resaved, "near"),
    "half size": (
        lambda x: (255 * resize(x, (80, 80), anti_aliasing=True)).astype(np.uint8),
        "near",
    ),
    "larger": (lambda x: (255 * resize(x, (300, 300))).astype(np.uint8), "near"),
    "brighter": (lambda x: np.clip(x.astype(int) + 35, 0, 255).astype(np.uint8), "near"),
    "less contrast": (lambda x: (90 + 0.3 * x).astype(np.uint8), "near"),
    "more contrast, clipped": (
        lambda x: rescale_intensity(x, (70, 180), (0, 255)).astype(np.uint8),
        "near",
    ),
    "gamma 0.5": (lambda x: (255 * (x / 255) ** 0.5).astype(np.uint8), "near"),
    "gamma 2": (lambda x: (255 * (x / 255) ** 2).astype(np.uint8), "near"),
    "equalised": (lambda x: (255 * equalize_hist(x)).astype(np.uint8), "near"),
    "down 2 %": (lambda x: shifted(x, 3, 0), "near"),
    "up and right 3 %": (lambda x: shifted(x, -5, 5), "near"),
    "shifted, resaved, gamma": (
        lambda x: resaved((255 * (shifted(x, 2, -3) / 255) ** 0.7).astype(np.uint8)),
        "near",
    ),
    "mirrored": (lambda x: x[:, ::-1], "mirror"),
    "mirrored and resaved": (lambda x: resaved(np.ascontiguousarray(x[:, ::-1])), "mirror"),
    "mirrored, gamma": (lambda x: (255 * (x[:, ::-1] / 255) ** 0.5).astype(np.uint8), "mirror"),
    "turned 90": (lambda x: np.rot90(x, 1), "turn"),
    "turned 180": (lambda x: np.rot90(x, 2), "turn"),
    "turned 270": (lambda x: np.rot90(x, 3), "turn"),
    "upside down": (lambda x: x[::-1], "turn"),
    "turned, gamma, shifted": (
        lambda x: (255 * (shifted(np.rot90(x), 2, 2) / 255) ** 0.6).astype(np.uint8),
        "turn",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    """One original and one copy per kind, the copies in test; and 20 films of nobody twice."""
    made = Folder(tmp_path_factory.mktemp("kinds"))
    for seed, (name, (change, _)) in enumerate(COPIES.items()):
        made.save(f"train/{name}.png", texture(seed), split="train")
        made.save(f"test/{name}.png", np.ascontiguousarray(change(texture(seed))), split="test")
    for seed in range(20):
        made.save(f"film {seed}.png", film(seed), split="test" if seed % 2 else "train")
    audit_dataset("toy", params(), made.write().paths)
    return made


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_as_what_it_is(folder, name):
    pairs = folder.pairs().set_index("image_id_b")
    found = pairs.loc[f"train/{name}.png"]
    assert found["image_id_a"] == f"test/{name}.png"
    assert found["kind"] == COPIES[name][1]
    assert found["straddles"]
    assert 0.8 < found["score"] <= 1


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_in_test_is_marked_by_its_kind(folder, name):
    row = folder.table().loc[f"test/{name}.png"]
    near = COPIES[name][1] == "near"
    assert row["copy_in_train"] == near
    assert row["copy_in_train_any"]
    assert row["copy_group"] == f"test/{name}.png"
    assert folder.table().loc[f"train/{name}.png", "copy_group"] == f"test/{name}.png"
    assert folder.table().loc[f"train/{name}.png", "near_group"] == (
        f"test/{name}.png" if near else f"train/{name}.png"
    )


def test_nothing_else_is_taken_for_a_copy(folder):
    assert len(folder.pairs()) == len(COPIES)


def test_films_that_look_alike_when_shrunk_stay_apart(folder):
    shrunk = [
        np.asarray(Image.fromarray(film(s)).resize((32, 32), Image.Resampling.BILINEAR)).ravel()
        for s in range(20)
    ]
    alike = np.corrcoef(shrunk)[np.triu_indices(20, 1)]
    assert alike.min() > 0.97, "the films of this test should be hard to tell apart"
    films = folder.table().filter(like="film", axis=0)
    assert films["copy_group"].nunique() == 20


def test_training_images_are_never_marked_as_leaks(folder):
    train = folder.table().filter(like="train/", axis=0)
    assert not train["copy_in_train_any"].any()


def test_mirrored_off_leaves_turned_and_mirrored_copies_out(tmp_path):
    folder = Folder(tmp_path)
    folder.save("a.png", texture(1), split="train")
    folder.save("b.png", np.ascontiguousarray(texture(1)[:, ::-1]), split="test")
    summary = audit_dataset("toy", params(mirrored=False), folder.write().paths)
    assert summary["pairs"]["mirror"] == 0
    assert not folder.table()["copy_in_train_any"].any()


def test_smooth_images_that_correlate_by_chance_are_no_copies(tmp_path):
    folder = Folder(tmp_path)
    ramp = np.linspace(20, 230, SIDE)[None].repeat(SIDE, 0)
    for seed in (1, 2):
        noise = 6 * (texture(seed).astype(float) / 255 - 0.5)
        folder.save(f"{seed}.png", (ramp + noise).astype(np.uint8), split="train")
    audit_dataset("toy", params(), folder.write().paths)
    assert folder.pairs().empty
