"""Learners on pixels: visual prompts in front of a frozen CLIP, and fine-tuned backbones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy import stats

from pipeline.config import ModelSpec
from pipeline.encode.again import load_clip_again
from pipeline.encode.encode import encode_dataset
from pipeline.encode.mapper import normalise
from pipeline.encode.pixels import Pixels
from pipeline.engine.options import RunOptions
from pipeline.errors import ConfigError, ModelError
from pipeline.io import sha256_file
from pipeline.learners import DivergedError, Samples
from pipeline.learners.base import find_learner
from pipeline.learners.train import train_dataset
from pipeline.models.clip import build_clip, load_clip
from pipeline.predict import predict_images
from pipeline.segment.segment import segment_dataset
from tests.learners.projects import read_tables
from tests.learners.test_learners import make
from tests.models.small import small_clip_config
from tests.project import DATASET, Project

DEFINED = "Each learner on pixels is the definition that its docstring cites."
SIZE = 64
CONVOLUTIONS = {"timm_model_name": "test_efficientnet", "timm_proj": "linear", "image_size": SIZE}
TOWERS = {"vit": {}, "conv": {"vision_cfg": CONVOLUTIONS}}
PROMPTS = {"vit": {"tokens": 3}, "conv": {"frame": 12, "head": "linear"}}
QUICK = {"epochs": 12, "patience": 12, "batch_size": 16, "learning_rate": 0.05}
NETWORK = {"backbone": "test_efficientnet", "image_size": SIZE, "augment": False, "epochs": 8}


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    """A ViT and a convolutional CLIP with random weights, as files."""
    folder, made = tmp_path_factory.mktemp("towers"), {}
    for name, changed in TOWERS.items():
        config = small_clip_config(**changed)
        (folder / f"{name}.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        state = {k: v.contiguous() for k, v in build_clip(config).state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
        files = {"name": f"{folder}/{name}.json", "checkpoint": f"{folder}/{name}.safetensors"}
        made[name] = ModelSpec(**files)
    return made


def draw(n: int, seed: int):
    """Frames, uint8 (n, s, s, 3), with a bright disc (class 1) or a dark one (class 0), and y."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 2
    frames = rng.integers(60, 196, (n, SIZE, SIZE, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:SIZE, :SIZE]
    for frame, label in zip(frames, y, strict=True):
        at = rng.integers(20, SIZE - 20, 2)
        frame[(rows - at[0]) ** 2 + (columns - at[1]) ** 2 < 200] = 250 * label
    return frames, y


def samples(spec, n: int = 48, seed: int = 1, y=None) -> Samples:
    """Images with the features that the CLIP has of them."""
    frames, labels = draw(n, seed)
    clip = load_clip(spec)
    features = clip.encode_image(normalise(frames, clip.mean, clip.std)).numpy()
    text = np.random.default_rng(5).standard_normal((2, features.shape[1])).astype(np.float32)
    keys = np.array([hashlib.sha256(f.tobytes()).hexdigest() for f in frames], object)
    pixels = Pixels(frames, SIZE, np.arange(n), keys, spec, clip.fingerprint)
    y = np.asarray(labels if y is None else y, np.int64)
    return Samples("whole", {"whole": features}, y, text, ("dark", "bright"), pixels=pixels)


def clip_of(part: Samples):
    return load_clip_again(part.pixels.spec, part.pixels.fingerprint)


def images_of(part: Samples) -> torch.Tensor:
    clip = clip_of(part)
    return normalise(part.pixels[np.arange(len(part))], clip.mean, clip.std)


def slow_vit(visual, image, prompts) -> np.ndarray:
    """The embedding of one image (3, s, s), token by token; `prompts` are added before block 1, or
    one group before each block in place of the group before it."""
    width, patch = visual.conv1.out_channels, visual.patch_size[0]
    kernels, tokens = visual.conv1.weight.reshape(width, -1), [visual.class_embedding]
    for i in range(0, SIZE, patch):
        for j in range(0, SIZE, patch):
            tokens.append(kernels @ image[:, i : i + patch, j : j + patch].reshape(-1))
    x = torch.stack(tokens) + visual.positional_embedding
    x = [visual.ln_pre(token) for token in x]
    fixed = x[1:]
    for number, block in enumerate(visual.transformer.resblocks):
        if number < len(prompts):
            middle = list(prompts[number])
        x = [x[0], *middle, *fixed]
        attention, normed = block.attn, torch.stack([block.ln_1(token) for token in x])
        q, k, v = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
        heads, size = [], width // attention.num_heads
        for h in range(attention.num_heads):
            cut = slice(h * size, (h + 1) * size)
            weights = torch.softmax(q[:, cut] @ k[:, cut].T / size**0.5, dim=1)
            heads.append(weights @ v[:, cut])
        x = torch.stack(x) + attention.out_proj(torch.cat(heads, dim=1))
        x = [token + block.mlp(block.ln_2(token)) for token in x]
        middle, fixed = x[1 : 1 + len(middle)], x[1 + len(middle) :]
    return visual.ln_post(x[0]) @ visual.proj


@pytest.mark.promise(DEFINED)
@pytest.mark.parametrize("depth", ("shallow", "deep"))
@torch.no_grad()
def test_tokens_enter_a_vit_as_in_visual_prompt_tuning(specs, depth):
    part = samples(specs["vit"], 4)
    network = make("visual-prompt", depth=depth, tokens=3).build(part)
    visual, images = clip_of(part).model.visual, images_of(part)
    assert network.tokens.shape == (1 if depth == "shallow" else 2, 3, 32)
    ours = network.features(images)
    slow = torch.stack([slow_vit(visual, image, network.tokens) for image in images])
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, torch.from_numpy(part.X), atol=1e-3)


@pytest.mark.promise(DEFINED)
@torch.no_grad()
def test_a_frame_is_added_to_the_border_and_without_it_prediction_is_zero_shot(specs):
    part = samples(specs["conv"], 4)
    clip, network = clip_of(part), make("visual-prompt", frame=12).build(part)
    logits = network(images_of(part))
    shot = make("zero-shot", scale=clip.logit_scale).fit(part, part).predict_proba(part)
    np.testing.assert_allclose(torch.softmax(logits, dim=1), shot, atol=1e-4)
    border = np.pad(np.zeros((SIZE - 24, SIZE - 24)), 12, constant_values=1)
    network.frame.copy_(torch.linspace(-1, 1, 3 * int(border.sum())).reshape(3, -1))
    framed, values = images_of(part), iter(network.frame.T)
    for i, j in np.argwhere(border):
        framed[:, :, i, j] += next(values)
    expected = clip.encode_image(framed)
    torch.testing.assert_close(network.features(images_of(part)), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.promise("A learner finds classes that are there; on noise it is at chance.")
@pytest.mark.promise("A frozen tower is the same after training.")
@pytest.mark.parametrize("name", ("vit", "conv", "network"))
def test_it_learns_what_is_there_and_no_more_and_whatever_things_are_called(specs, name):
    spec = specs[name] if name in specs else specs["vit"]
    kind, params = (
        ("fine-tuned", NETWORK) if name == "network" else ("visual-prompt", PROMPTS[name])
    )
    params = QUICK | params | ({"learning_rate": 3e-3} if name == "network" else {})
    train, val, test = (samples(spec, n, seed) for n, seed in ((48, 1), (16, 2), (80, 3)))
    tower = clip_of(train).model.visual
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    learner = make(kind, **params).fit(train, val)
    proba = learner.predict_proba(test)
    assert (proba.argmax(axis=1) == test.y).mean() > 0.9 and learner.val_score > 0.85
    for key, value in tower.state_dict().items():
        assert torch.equal(value, before[key])
    # Other row order and other class numbers: the same bits.
    rows, other = np.random.default_rng(0).permutation(48), replace(train, text=train.text[::-1])
    other = replace(other, y=1 - other.y).take(rows, labelled=True)
    swapped = replace(val, y=1 - val.y, text=val.text[::-1])
    again = make(kind, **params).fit(other, swapped).predict_proba(test)
    np.testing.assert_array_equal(again[:, ::-1], proba)
    # Labels that say nothing: as many hits as by chance.
    noise = np.random.default_rng(4).permutation
    none = make(kind, **params | {"epochs": 3})
    none.fit(replace(train, y=noise(train.y)), replace(val, y=noise(val.y)))
    hits = int((none.predict_proba(test).argmax(axis=1) == noise(test.y)).sum())
    assert stats.binomtest(hits, 80).pvalue > 1e-3


@pytest.mark.promise("A fit whose loss is infinite or NaN is reported as diverged, not stored.")
@pytest.mark.parametrize("kind", ("visual-prompt", "fine-tuned"))
def test_a_loss_that_is_not_finite_is_no_fit(specs, kind):
    params = {"learning_rate": 1e38, "epochs": 3, "patience": 3, "batch_size": 4}
    params |= NETWORK | {"epochs": 3} if kind == "fine-tuned" else {"depth": "shallow"}
    part = samples(specs["vit"], 12)
    with pytest.raises(DivergedError, match="after epoch"):
        make(kind, **params).fit(part, part.take(slice(0), labelled=True))


def test_weights_come_from_a_stated_file_or_the_package_or_the_row_says_from_scratch(
    specs, tmp_path, repo
):
    part, file = samples(specs["vit"], 2), tmp_path / "trained.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=7).state_dict(), file)
    stated = {"checkpoint": str(file), "sha256": sha256_file(file)}

    def begun(**params):
        learner = make("fine-tuned", **params)
        network = learner.build(part)
        learner.begin(network, part)
        return learner.chosen["weights"], network.trunk.state_dict()

    said, state = begun(**NETWORK, **stated)
    trained = timm.create_model("test_efficientnet", num_classes=7, checkpoint_path=str(file))
    assert said == str(file)
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in state.items())
    assert begun(**NETWORK)[0] == "from scratch"
    assert begun()[0] == "package" and make("fine-tuned").frame_size(224) == 128
    assert make("fine-tuned", backbone="resnet50").frame_size(64) == 224
    with pytest.raises(ModelError, match="has SHA-256"):
        begun(**NETWORK, **stated | {"sha256": "0" * 64})
    with pytest.raises(ModelError, match=r"another model: 1?\d+ missing"):
        begun(**NETWORK | {"backbone": "test_resnet"}, **stated)
    for wrong in ({"backbone": "resnet51"}, {"checkpoint": "x.safetensors"}):
        with pytest.raises(ConfigError, match=r"learners\.mine"):
            find_learner("mine", {"kind": "fine-tuned", **wrong}, repo)


@pytest.fixture
def project(tmp_path):
    made, (frames, y) = Project(tmp_path), draw(16, 7)
    for i, (frame, label) in enumerate(zip(frames, y, strict=True)):
        columns = {"label": "cat" if label else "dog", "split": "train" if i < 12 else "test"}
        made.rows.append(made.make_row(f"{i:02}.png", frame, **columns))
    made.write()
    return made


@pytest.mark.promise("Training gives the same bits for any number of jobs and any row order.")
@pytest.mark.promise("A saved learner, loaded again, predicts the same bits.")
def test_sections_of_one_kind_are_trained_by_one_or_two_jobs_saved_and_predict(project, specs):
    own = {"seeds": [0], "fractions": [1.0], "epochs": 2}
    learners = {
        "visual-prompt": own | {"tokens": 2},
        "small": {"kind": "fine-tuned", **NETWORK, **own},
    }
    clip = json.loads(specs["vit"].model_dump_json(exclude_none=True))
    params = project.params(
        profiles__embedded__clip=clip, segment__prompt="full", encode__views=["whole"],
        encode__geometry="crop", learners=learners, train__views={"official": ["whole"]},
        study__runs=[{"name": "one", "learner": "linear-probe", "view": "whole"}],
    )  # fmt: skip
    paths, options = project.paths, RunOptions(workers=1, progress=False)
    segment_dataset(DATASET, params, paths, options)
    encode_dataset(DATASET, params, paths, options)

    def trained(**how):
        records = train_dataset(DATASET, params, paths, **how)
        files = [paths.run(DATASET, name) / "fitted.safetensors" for name in learners]
        return [r.done for r in records], [sha256_file(file) for file in files], read_tables(paths)

    _, first, tables = trained(jobs=2)
    done, second, again = trained(jobs=1, force=True)
    assert done == [1, 1] and first == second and tables[1].equals(again[1])
    done, third, again = trained()
    assert done == [0, 0] and first == third and tables[1].equals(again[1])
    assert set(tables[0]["learner"]) == set(learners) and set(tables[0]["status"]) == {"ok"}
    assert "from scratch" in tables[0].set_index("learner").loc["small", "chosen"]
    for name in learners:
        new = predict_images(
            DATASET, [project.file("12.png")], params, paths, options,
            learner=name, view="whole", out=paths.root / "out",
        )  # fmt: skip
        assert not new.failed
        row = tables[1][(tables[1]["learner"] == name) & (tables[1]["image_id"] == "12.png")]
        stored = row[["p:cat", "p:dog"]].to_numpy()[0]
        shown = [new.images[0].probabilities[label] for label in ("cat", "dog")]
        np.testing.assert_allclose(shown, stored, atol=1e-4)
