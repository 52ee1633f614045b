"""Every kind of copy is found as what it is, and images that are no copies are left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import shift
from skimage.exposure import equalize_hist, rescale_intensity
from skimage.transform import resize

from pipeline.audit import audit_dataset, compare_datasets
from pipeline.audit.search import find_copies
from pipeline.audit.thumbnails import STRUCTURE_SIDE
from tests.audit.folder import SIDE, Folder, as_thumbnails, film, gamma, params, texture

APART = "Films of different patients are no copies."


def resaved(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=30)
    return np.asarray(Image.open(stream))


def shifted(image, down, right):
    """Return what a viewer shows when the picture is moved and its edge continued."""
    padded = np.pad(image, 8, mode="edge")
    return padded[8 - down : 8 - down + SIDE, 8 - right : 8 - right + SIDE]


def as_bytes(image):
    return (255 * image).astype(np.uint8)


COPIES = {
    "resaved": (resaved, "near"),
    "half size": (lambda x: as_bytes(resize(x, (80, 80), anti_aliasing=True)), "near"),
    "brighter": (lambda x: np.clip(x.astype(int) + 35, 0, 255).astype(np.uint8), "near"),
    "less contrast": (lambda x: (90 + 0.3 * x).astype(np.uint8), "near"),
    "clipped": (lambda x: rescale_intensity(x, (70, 180), (0, 255)).astype(np.uint8), "near"),
    "gamma 0.5": (lambda x: gamma(x, 0.5), "near"),
    "equalised": (lambda x: as_bytes(equalize_hist(x)), "near"),
    "shifted, resaved, gamma": (lambda x: resaved(gamma(shifted(x, 2, -3), 0.7)), "near"),
    "mirrored": (lambda x: x[:, ::-1], "mirror"),
    "turned 90": (lambda x: np.rot90(x, 1), "turn"),
    "upside down": (lambda x: x[::-1], "turn"),
    "turned, gamma, shifted": (lambda x: gamma(shifted(np.rot90(x), 2, 2), 0.6), "turn"),
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


@pytest.mark.promise(
    "Re-saved, resized, brightened, contrast-changed, shifted, mirrored and turned copies are "
    "found."
)
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_as_what_it_is_and_marked_by_its_kind(folder, name):
    pair = folder.pairs().set_index("image_id_b").loc[f"train/{name}.png"]
    assert pair["image_id_a"] == f"test/{name}.png"
    assert pair["kind"] == COPIES[name][1] and pair["leak"]
    assert 0.8 < pair["score"] <= 1
    test, train = (folder.table().loc[f"{split}/{name}.png"] for split in ("test", "train"))
    near = COPIES[name][1] == "near"
    assert test["copy_in_train"] == near and test["copy_in_train_any"]
    assert not train["copy_in_train_any"]
    assert test["copy_group"] == train["copy_group"] == f"test/{name}.png"
    assert train["near_group"] == (f"test/{name}.png" if near else f"train/{name}.png")


@pytest.mark.promise(APART)
def test_films_that_look_alike_when_shrunk_stay_apart(folder):
    assert len(folder.pairs()) == len(COPIES)
    shrunk = as_thumbnails([film(seed) for seed in range(20)]).plain.reshape(20, -1)
    assert np.corrcoef(shrunk).min() > 0.97, "the films of this test should be alike"
    assert folder.table().filter(like="film", axis=0)["copy_group"].nunique() == 20


@pytest.mark.promise(APART)
def test_smooth_images_that_correlate_by_chance_are_no_copies(tmp_path):
    folder = Folder(tmp_path)
    ramp = np.linspace(20, 230, SIDE)[None].repeat(SIDE, 0)
    for seed in (1, 2):
        noise = 6 * (texture(seed).astype(float) / 255 - 0.5)
        folder.save(f"{seed}.png", (ramp + noise).astype(np.uint8), split="train")
    audit_dataset("toy", params(), folder.write().paths)
    assert folder.pairs().empty


FARTHEST = 0.03 * STRUCTURE_SIDE  # thumbnail pixels: the promised 3 % of a side
DISTANCES = [*np.arange(-1.75, 2, 0.25), -FARTHEST, FARTHEST]
DIRECTIONS = {"down": (1, 0), "right": (0, 1), "both": (1, 1), "across": (1, -1), "half": (1, 0.5)}


def moved(image: np.ndarray, down: float, right: float) -> np.ndarray:
    """Move a picture by thumbnail pixels, its edge continued."""
    pixel = len(image) / STRUCTURE_SIDE
    image = shift(image.astype(float), (down * pixel, right * pixel), order=3, mode="nearest")
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.promise(
    "A copy moved by up to 3 % of a side is found, wherever it comes to lie between the pixels of "
    "the thumbnails, mirrored and turned ones too."
)
@pytest.mark.parametrize("kind", ["near", "mirror", "turn"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_copy_moved_by_any_fraction_of_a_pixel_up_to_3_percent_is_found(direction, kind):
    down, right = DIRECTIONS[direction]
    change = {"near": np.array, "mirror": np.fliplr, "turn": np.rot90}[kind]
    distances = DISTANCES if kind == "near" else DISTANCES[::3]
    originals = [texture(seed) for seed in range(2)]
    copies = [change(moved(x, d * down, d * right)) for d in distances for x in originals]
    found, _ = find_copies(as_thumbnails(copies), as_thumbnails(originals), params().audit)
    expected = [(at, at % len(originals)) for at in range(len(copies))]
    assert list(zip(found.left, found.right, strict=True)) == expected
    assert set(found.kind) == {kind}


@pytest.mark.promise("Copies across datasets are found.")
def test_copies_across_datasets_are_found_by_kind_and_films_of_others_are_not(tmp_path):
    made = Folder(tmp_path)
    for seed in range(5):
        made.save(f"{seed}.png", texture(seed), split="test", dataset="one")
        made.save(f"film {seed}.png", film(seed), split="test", dataset="one")
        made.save(f"film {seed}.png", film(seed + 5), split="train", dataset="two")
    made.save("same bytes.png", texture(0), split="train", dataset="two")
    made.save("contrast.png", gamma(texture(1)), split="test", dataset="two")
    made.save("turned.png", np.ascontiguousarray(np.rot90(texture(2))), split="val", dataset="two")
    made.save("broken.png", b"nothing", dataset="two")
    made.write()
    pairs = compare_datasets("one", "two", params(), made.paths)
    assert pairs[["image_id_a", "image_id_b", "kind", "leak"]].to_numpy().tolist() == [
        ["0.png", "same bytes.png", "byte", True],
        ["1.png", "contrast.png", "near", False],
        ["2.png", "turned.png", "turn", True],
    ]
    assert list(pairs.attrs["unreadable"]["two"]) == ["broken.png"]
