"""CoOp and CoCoOp are their definitions, on text towers of every class, and as safe as any fit.

The slow implementations encode each prompt alone, from embedded tokens, without the tower's hook.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

from pipeline.config import LOCAL, load_params
from pipeline.encode.text import Prompts, text_identity
from pipeline.errors import ModelError
from pipeline.learners import Samples
from pipeline.learners import prompts as towers
from pipeline.learners.base import in_content_order
from pipeline.learners.joint import fit_joined, predict_joined
from pipeline.learners.prompts import ClassPrompts, TextTower
from pipeline.models import ModelSpec, load_clip
from pipeline.paths import Paths
from pipeline.store import open_features
from tests.learners.projects import REPO, make_manifest, small_params, write_features
from tests.learners.test_definitions import adamw, mean_loss
from tests.learners.test_learners import draw, make
from tests.models.small import (
    BIOMED,
    SIGLIP,
    save_clip,
    save_repository,
    save_text_model,
    small_clip_config,
)

from .test_train import MASKED, check_saved, copy_of, digests, fitted_arrays, train

WORDS = ("tumour", "scan of scan", "a b")


@pytest.fixture(scope="module")
def specs(tmp_path_factory) -> dict[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("towers")
    (folder / "small.json").write_text(json.dumps(small_clip_config()))
    weights, text = save_clip(folder / "small.pt"), save_text_model(folder / "text")
    found = {"clip": ModelSpec(name=str(folder / "small.json"), checkpoint=str(weights))}
    for name, config in {"hf": BIOMED, "siglip": SIGLIP}.items():
        save_repository(folder / name, config, text)
        found[name] = ModelSpec(name=f"{LOCAL}{folder / name}", text=str(text))
    return found | {"micro": load_params(REPO / "params.yaml").profiles["embedded"].clip}


@pytest.fixture(scope="module")
def models(specs):
    return {name: load_clip(spec) for name, spec in specs.items()}


@pytest.fixture(scope="module")
def prompts(specs, models) -> ClassPrompts:
    return ClassPrompts(WORDS, ("{}.",), specs["clip"], models["clip"].fingerprint)


def encode_alone(model, ids: list[int], embedded: torch.Tensor) -> np.ndarray:
    """The text feature, of length 1, of one prompt of embedded tokens (L, width)."""
    text, x = getattr(model, "text", model), embedded[None]
    if hasattr(text, "pooler"):  # of transformers
        mask = (torch.tensor([ids]) != text.config.pad_token_id).long()
        out = text.transformer(inputs_embeds=x, attention_mask=mask)
        x = text.proj(text.pooler(out, mask))[0]
    else:
        x = text.transformer(x + text.positional_embedding, attn_mask=text.attn_mask)
        last = max(range(len(ids)), key=ids.__getitem__) if text is model else -1
        x, project = text.ln_final(x)[0, last], text.text_projection
        x = project(x) if isinstance(project, torch.nn.Linear) else x @ project
    return (x / x.norm()).detach().numpy()


def learnt(clip, words: str, before: list, after: list) -> tuple[list[int], torch.Tensor]:
    """The ids and embeddings of "V..V words V..V." as a person writes them, for the whole length.

    The tokenizer is asked for each part alone; it puts the same tokens before and after each.
    """
    model, empty = clip.model, clip.tokenizer([""])[0].tolist()
    pad = empty[-1]
    start, end = ([i for i in part if i != pad] for part in (empty[:1], empty[1:]))
    if len(empty) - empty.count(pad) == 1:  # an end only
        start, end = [], start

    def own(text: str) -> list[int]:
        ids = [i for i in clip.tokenizer([text])[0].tolist() if i != pad]
        return ids[len(start) : len(ids) - len(end)]

    body, stop = own(words), own(f"{words}.")[len(own(words)) :]
    ids = start + [7] * len(before) + body + [7] * len(after) + stop + end
    ids += [pad] * (clip.context_length - len(ids))
    text = getattr(model, "text", model)
    plain = hasattr(text, "token_embedding")
    table = text.token_embedding if plain else text.transformer.get_input_embeddings()
    rows = [table.weight[i].detach() for i in ids]
    first, second = len(start), len(start) + len(before) + len(body)
    rows[first : first + len(before)] = before
    rows[second : second + len(after)] = after
    return ids, torch.stack(rows)


@pytest.mark.promise(
    "A learnt context enters the text tower as the model's own token embeddings would."
)
@pytest.mark.parametrize("name", ["clip", "hf", "siglip", "micro"])
def test_the_context_enters_as_token_embeddings_do_in_every_text_tower(models, name):
    clip, rng = models[name], torch.Generator().manual_seed(1)
    tower = TextTower(clip)
    # The embeddings of the template's own words give the model's own text features.
    context = tower.embed("a scan of")
    ids, places = tower.prompts(WORDS, len(context))
    texts = [f"a scan of {words}." for words in WORDS]
    expected = np.concatenate([clip.encode_text([text]).numpy() for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = tower.encode(ids, places, context.expand(3, -1, -1)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert ids.shape[1] < clip.context_length or name == "siglip"
    # Other vectors, and some after the words.
    context = torch.randn((3, 3, tower.width), generator=rng) * tower.std
    found = tower.encode(*tower.prompts(WORDS, 1, 2), context).numpy()
    alone = [learnt(clip, w, [*c[:1]], [*c[1:]]) for w, c in zip(WORDS, context, strict=True)]
    expected = [encode_alone(clip.model, *one) for one in alone]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert abs(found - clip.encode_text(list(WORDS)).numpy()).max() > 1e-3
    with pytest.raises(ModelError, match=r"'tumour\.' and 200 vectors are 2\d\d tokens"):
        tower.prompts(WORDS, 200)


def samples(prompts: ClassPrompts, n: int, seed: int, spread: float = 1.0) -> Samples:
    """Images around one centre a class, which no prompt tells."""
    X, y, _ = draw(n, seed, spread=spread)
    text = prompts.tower().encode(*prompts.tower().prompts(prompts.words, 0), torch.zeros(3, 0, 32))
    return Samples("whole", {"whole": X}, y, text.numpy(), ("a", "b", "c"), prompts=prompts)


@pytest.mark.promise("Each learner on cached features is the definition that its docstring cites.")
@pytest.mark.parametrize("name", ["coop", "cocoop"])
def test_coop_and_cocoop_are_their_equations_encoded_prompt_by_prompt(models, prompts, name):
    train_part, val, test = (samples(prompts, n, n) for n in (6, 3, 9))
    own = {"tokens": 2, "epochs": 2, "class_position": "middle", "scale": 10.0, "seed": 4}
    own |= {"learning_rate": 0.01} | ({"class_specific": False} if name == "coop" else {})
    learner = make(name, **own, batch_size=6).fit(train_part, val.take(slice(0), labelled=True))
    clip, rng = copy.copy(models["clip"]), torch.Generator().manual_seed(4)
    clip.model = copy.deepcopy(clip.model).double()
    std = models["clip"].model.token_embedding.weight.std().item()
    arrays = [(torch.randn((2, 32), generator=rng) * std).numpy().astype(np.float64)]
    if name == "cocoop":
        h = 24 // 16
        w1 = (2 * torch.rand((24, h), generator=rng) - 1) / 24**0.5
        w2 = (2 * torch.rand((h, 32), generator=rng) - 1) / h**0.5
        arrays += [w1.double().numpy(), np.zeros(h), w2.double().numpy(), np.zeros(32)]

    def text(shift):
        vectors = [torch.from_numpy(v + shift) for v in arrays[0]]
        every = (learnt(clip, words, vectors[:1], vectors[1:]) for words in WORDS)
        return [encode_alone(clip.model, *one) for one in every]

    def logits(x, of_all=None):
        f = x.astype(np.float64) / math.sqrt(sum(float(v) ** 2 for v in x))
        shift = np.zeros(32)
        if name == "cocoop":
            _, w1, b1, w2, b2 = arrays
            shift = np.maximum(f @ w1 + b1, 0) @ w2 + b2
        return [10 * f @ t for t in of_all or text(shift)]

    def loss():
        of_all = text(np.zeros(32)) if name == "coop" else None  # the same for each image
        return mean_loss([logits(x, of_all) for x in train_part.X], train_part.y)

    before = loss()
    if name == "coop":
        adamw(loss, arrays, lr=0.01, decay=0.01, epochs=2, eps=1e-8)
    else:  # numerical slopes of the network would take long: what was fitted is taken
        names = ("w1_", "b1_", "w2_", "b2_")
        arrays[:] = [learner.context_[0], *(getattr(learner, key) for key in names)]
    np.testing.assert_allclose(learner.context_[0], arrays[0], atol=2e-4)
    assert loss() < before
    expected = [softmax(logits(x)) for x in test.X]
    np.testing.assert_allclose(learner.predict_proba(test), expected, atol=1e-4)


@pytest.mark.promise("A learner finds classes that are there; on noise it is at chance.")
@pytest.mark.promise("Every learner is at chance on shuffled labels.")
@pytest.mark.parametrize("name", ["coop", "cocoop"])
def test_classes_are_found_and_shuffled_labels_give_chance(prompts, name):
    parts = [samples(prompts, n, seed, 0.9) for n, seed in ((60, 1), (30, 2), (300, 3))]
    learner = make(name).fit(*parts[:2])
    proba = learner.predict_proba(parts[2])
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (proba.argmax(axis=1) == parts[2].y).mean() > {"coop": 0.85, "cocoop": 0.45}[name]
    assert learner.val_score > 0.4 and 1 <= learner.chosen["epoch"] <= 60
    rng = np.random.default_rng(5)
    mixed = [replace(part, y=rng.permutation(part.y)) for part in parts]
    hits = (make(name).fit(*mixed[:2]).predict_proba(parts[2]).argmax(axis=1) == mixed[2].y).sum()
    low, high = stats.binom.interval(0.999, 300, 1 / 3)
    assert low <= hits <= high


@pytest.mark.promise("What images and classes are called, and their order, changes no prediction.")
@pytest.mark.parametrize(("name", "params"), [("coop", {}), ("coop", {"class_specific": False}),
                                              ("cocoop", {"epochs": 1})])  # fmt: skip
def test_the_order_of_images_and_classes_changes_no_bit_of_the_fit(prompts, name, params):
    parts, order = [samples(prompts, 24, 1), samples(prompts, 9, 2)], np.array([2, 0, 1])
    found = [make(name, **{"epochs": 3, "batch_size": 8} | params).fit(*parts)]
    moved = []
    for part in parts:
        mixed = part.take(np.random.default_rng(0).permutation(len(part)), labelled=True)
        of = {"text": part.text[order], "prompts": prompts.take(order)}
        moved.append(replace(mixed, y=np.argsort(order)[mixed.y], **of))
    found.append(make(name, **{"epochs": 3, "batch_size": 8} | params).fit(*moved))
    for key, value in found[0].tensors.items():
        own = len(value) == 3 and name == "coop"
        np.testing.assert_array_equal(found[1].tensors[key], value[order] if own else value)
    assert found[0].val_score == found[1].val_score and found[0].chosen == found[1].chosen
    assert in_content_order(*moved)[0].prompts == in_content_order(*parts)[0].prompts


def test_a_joint_view_is_compared_with_the_prompt_repeated(prompts):
    part, other = samples(prompts, 12, 1), samples(prompts, 12, 2)
    both = replace(part, view="a+b", features={"a": part.X, "b": other.X})
    learner = fit_joined(make("coop", epochs=2), both, both.take(slice(0), labelled=True))
    joined = np.concatenate([learner.blocks_[0] * part.X, learner.blocks_[1] * other.X], axis=1)
    joined /= np.linalg.norm(joined, axis=1, keepdims=True)
    text = np.tile(learner.text_, 2) / math.sqrt(2)
    expected = softmax(100 * (joined @ text.T).astype(np.float64), axis=1)
    np.testing.assert_allclose(predict_joined(learner, both), expected, atol=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, specs, models):
    """A project whose store knows its text model, and its parameters."""
    clip, root = models["clip"], tmp_path_factory.mktemp("coop")
    labels, paths = [("a", "b", "c")[i % 3] for i in range(24)], Paths(root)
    manifest = make_manifest(labels, ["test" if i % 4 == 3 else "train" for i in range(24)])
    made = Prompts(("a {}.",), {c: (f"a {w}.",) for c, w in zip("abc", WORDS, strict=True)}, root)
    text = clip.encode_text(made.flat()).numpy()
    X = np.random.default_rng(0).standard_normal((24, 24))
    identity = text_identity(made, clip.fingerprint, "fp32")
    arguments = paths, "toy", manifest, {"masked": X}, text, ["a", "b", "c"]
    write_features(*arguments, text_made=identity, templates=made.templates)
    grid = {"train__views": MASKED, "train__seeds": [0], "splits__fractions": [1.0]}
    clip_of = {"profiles.embedded.clip": specs["clip"].model_dump(exclude_none=True)}
    own = {"learners.coop.epochs": 2, "learners.cocoop.epochs": 1, "learners.cocoop.fractions": [1]}
    params = small_params("coop", "cocoop", **grid, **clip_of, **own)
    return paths, params, train(paths, params)


@pytest.mark.promise("Training gives the same bits for any number of jobs and any row order.")
def test_through_train_they_are_fits_like_any_other(trained, tmp_path, monkeypatch):
    paths, params, counts = trained
    assert counts == {"done": 2, "skipped": 0, "failed": 0, "total": 2}
    again = copy_of(trained, tmp_path / "again")
    monkeypatch.setattr(towers, "_towers", {})
    assert train(again, params)["skipped"] == 2
    train(again, params, jobs=2, force=True)
    assert digests(again) == digests(paths)
    assert [a.shape for a in fitted_arrays(paths, "coop")] == [(1, 4, 32), (3, 24)]
    prompts = ClassPrompts.of(open_features(paths.features("toy")), "abc", params.models.clip)
    assert prompts.words == WORDS
    for name in ("coop", "cocoop"):
        check_saved(paths, name, prompts=prompts)


@pytest.mark.promise("Prompts are learnt with the CLIP that made the features, or not at all.")
@pytest.mark.parametrize("what", ["missing", "other", "unknown"])
def test_another_text_model_than_that_of_the_features_is_refused(
    trained, tmp_path, monkeypatch, what
):
    paths, params, _ = trained
    monkeypatch.setattr(towers, "_towers", {})
    spec = params.models.clip
    store = open_features(paths.features("toy"))
    if what == "unknown":
        monkeypatch.setitem(store.attrs, "text_identity", {"made": "from arrays"})
        with pytest.raises(ModelError, match=r"does not say.*run pipeline encode"):
            ClassPrompts.of(store, "abc", spec)
        return
    weights = save_clip(tmp_path / "other.pt", seed=1) if what == "other" else tmp_path / "none.pt"
    spec = spec.model_copy(update={"checkpoint": str(weights)})
    named = {"other": "checkpoint_sha256", "missing": "none.pt"}[what]
    with pytest.raises(ModelError, match=named):
        ClassPrompts.of(store, "abc", spec).tower()
