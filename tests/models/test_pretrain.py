"""The embedded models' training: seeded, on the images it may see, judged against a floor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import SegmentParams, load_params
from pipeline.errors import ConfigError
from pipeline.models import ModelSpec, load_sam2
from pipeline.models.seen import DIGITS, read_hashes
from pipeline.pretrain import data, evaluate, loop, losses, phantoms, prompts, run, scenes
from pipeline.pretrain.card import summarise, table, verdicts
from pipeline.segment.strategies import STRATEGIES

REPO = Path(__file__).resolve().parents[2]
CARDS = REPO / "pipeline/models/cards"
SMOKE = loop.TrainConfig(steps=2, batch=4, warmup=1)


@pytest.fixture(scope="module")
def drawn():
    return data.load_phantoms(0, {kind: 2 for kind in phantoms.KINDS})


@pytest.mark.parametrize("kind", list(phantoms.KINDS))
def test_phantoms_are_the_same_for_the_same_seed(kind):
    (a, mask), (b, same), (c, _) = (phantoms.draw(kind, 1, s)[0] for s in (3, 3, 4))
    assert a.shape == (256, 256, 3)
    assert a.dtype == np.uint8
    assert 64 <= mask.sum() < mask.size
    assert (a == b).all()
    assert (mask == same).all()
    assert (a != c).any()


def test_training_twice_gives_the_same_weights(drawn):
    states = [
        loop.train(run.new_micro(0), drawn, SMOKE, autocast=False).state_dict() for _ in range(2)
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_training_changes_the_decoder_and_not_the_frozen_part(drawn, tmp_path):
    before = {k: v.clone() for k, v in run.new_micro(0).state_dict().items()}
    path = tmp_path / "sam2-micro.safetensors"
    after = run.make_sam2(drawn, SMOKE, path, every=1).state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert any(k.startswith("sam_mask_decoder") for k in changed)
    assert not any(k.startswith("image_encoder.trunk.body.conv_stem") for k in changed)
    assert not any("running_" in k for k in changed)
    predictor = load_sam2(ModelSpec(name="sam2-micro", checkpoint=str(path)))
    predictor.set_image(np.zeros((50, 60, 3), np.uint8))
    assert predictor.predict(multimask_output=False)[0].shape == (1, 50, 60)


def test_held_out_images_are_never_drawn(drawn):
    from dataclasses import replace

    marked = [replace(i, image=torch.full_like(i.image, 255), held_out=True) for i in drawn]
    kept = loop.train(run.new_micro(0), [*drawn, *marked], SMOKE, autocast=False).state_dict()
    alone = loop.train(run.new_micro(0), drawn, SMOKE, autocast=False).state_dict()
    assert all(torch.equal(kept[k], alone[k]) for k in kept)


def test_a_mosaic_has_one_object_in_each_quarter(drawn):
    scene = scenes.mosaic(drawn[:4], np.random.default_rng(0))
    assert scene.salient is None
    for n, mask in enumerate(scene.objects):
        y, x = n // 2 * 128, n % 2 * 128
        assert float(mask.sum()) == pytest.approx(float(mask[y : y + 128, x : x + 128].sum()))


def test_a_zoom_holds_its_object(drawn):
    for seed, item in enumerate(drawn):
        mask = scenes.zoom(item, np.random.default_rng(seed)).objects[0]
        assert 0.02 < float(mask.mean()) < 0.95


def test_a_moved_box_stays_in_the_image_and_within_its_share():
    rng = np.random.default_rng(0)
    box = np.array([10.0, 20.0, 60.0, 120.0])
    for _ in range(50):
        moved = prompts.jitter_box(box, 0.1, rng, 125, 200)
        assert (np.abs(moved - box) <= [5, 10, 5, 10]).all()
        assert moved[3] <= 125


def test_clicks_lie_in_their_region_and_corrections_where_the_error_is():
    region = torch.zeros(2, 64, 64)
    region[0, 10:20, 30:40] = 1
    region[1, 50:60, 5:9] = 1
    rng = np.random.default_rng(0)
    points = prompts.clicks(region, rng).long()[:, 0]
    assert all(region[n, y, x] == 1 for n, (x, y) in enumerate(points.tolist()))
    empty, full = torch.full_like(region, -5), torch.full_like(region, 5)
    assert prompts.correcting_clicks(empty, region, rng)[1].tolist() == [[1], [1]]
    assert prompts.correcting_clicks(full, region, rng)[1].tolist() == [[0], [0]]


def test_the_loss_falls_with_overlap():
    target = torch.zeros(1, 16, 16)
    target[:, 4:12, 4:12] = 1
    good = (target * 2 - 1)[:, None].expand(-1, 4, -1, -1) * 8
    iou = torch.ones(1, 4)
    right, dice = losses.mask_loss(good, iou, target)
    wrong, _ = losses.mask_loss(-good, iou, target)
    assert right < wrong
    assert float(dice) == 1.0


def test_the_ellipse_floor_knows_an_ellipse():
    y, x = np.mgrid[:100, :100] + 0.5
    truth = ((x - 50) / 30) ** 2 + ((y - 40) / 20) ** 2 <= 1
    assert evaluate.dice(evaluate.ellipse(np.array([20, 20, 80, 60]), 100, 100), truth) > 0.98


def test_measuring_gives_every_prompt_and_the_floor_and_repeats(drawn):
    sam = load_sam2(ModelSpec(name="sam2-micro"))
    cases = [evaluate.Case("p", i.image.permute(1, 2, 0).numpy(), i.mask.numpy()) for i in drawn]
    names = ("salient", "click", "box + mask + zoom")
    first, again = (evaluate.measure(sam, cases, names) for _ in range(2))
    assert set(first["p"]) == {*names, evaluate.ELLIPSE}
    for name, values in first["p"].items():
        assert values.shape == (len(drawn),)
        np.testing.assert_array_equal(values, again["p"][name])
    summary = summarise(first)
    assert "box + mask + zoom" in table(summary)
    assert evaluate.ELLIPSE not in verdicts(summary)


def test_near_copies_and_mirror_images_share_a_group():
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.integers(0, 255, (3, 40, 40), dtype=np.uint8)) for _ in range(2))
    groups = data.near_copy_groups([a, b, a.flip(-1), (a.float() * 0.9).byte()])
    assert groups[0] == groups[2] == groups[3] != groups[1]


def test_a_missing_mask_set_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nuclei"):
        data.load_sets(tmp_path)


def test_no_image_of_the_four_sets_was_seen_but_the_stated_lung_fields(shared):
    import csv

    seen = read_hashes(CARDS / "training-hashes.txt.gz")

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    with open(shared / "segmentation/lung_train.csv", newline="") as file:
        allowed = {digest(shared / "data" / row["image"]) for row in csv.DictReader(file)}
    assert len(seen) > 4000
    found = set()
    for name in ("brain", "covid", "lung", "breast"):
        for path in sorted((shared / "data" / name).rglob("*.*")):
            if (sha256 := digest(path))[:DIGITS] in seen:
                found.add(sha256)
                assert sha256 in allowed, path  # the publisher repeats some files byte for byte
                assert path.relative_to(shared / "data").parts[:2] == ("lung", "train"), path
    assert found == allowed


def test_the_cards_state_the_weights_they_are_about():
    for name in ("sam2-micro", "clip-micro"):
        weights = REPO / f"pipeline/models/weights/{name}.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        assert digest in (CARDS / f"{name}.md").read_text()


def test_the_default_prompt_is_the_best_without_ground_truth_on_held_out_images():
    card = json.loads((CARDS / "sam2-micro.json").read_text())
    weights = REPO / "pipeline/models/weights/sam2-micro.safetensors"
    assert card["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    means = {
        name: np.mean([measured["prompts"][name]["mean"] for measured in card["held"].values()])
        for name, params in evaluate.PROMPTS.items()
        if not (STRATEGIES[params.prompt].columns or STRATEGIES[params.prompt].mask_file)
    }
    assert set(means) == set(evaluate.WITHOUT_A_PROMPT)
    best = max(means, key=means.get)
    assert card["default"] == best
    assert SegmentParams().prompt == best
    assert load_params(REPO / "params.yaml").segment.prompt == best
