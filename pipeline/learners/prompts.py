"""Class prompts with a learnt context: what `Samples.prompts` holds, and the CLIP text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor
from torch.func import functional_call

from pipeline.encode.again import REMEDY, load_clip_again
from pipeline.errors import ModelError
from pipeline.io import sha256_json
from pipeline.models import ClipModel, ModelSpec
from pipeline.store import FeatureStore

_towers: dict[str, TextTower] = {}


@dataclass(frozen=True)
class ClassPrompts:
    """The texts of the classes and where their text tower is loaded from; small and picklable.

    Attributes:
        words: what stands for `{}` in the prompts of each class, in the order of class numbers.
        templates: those that the features T were encoded with, such as "an MRI scan of {}.".
        spec: the CLIP to load.
        fingerprint: what the feature store says of the CLIP that made it; `spec` has to agree.
    """

    words: tuple[str, ...]
    templates: tuple[str, ...]
    spec: ModelSpec
    fingerprint: Mapping[str, Any]

    @classmethod
    def of(cls, store: FeatureStore, classes: Sequence[str], spec: ModelSpec) -> Self:
        """Return the prompts that a store's text features were made of, in the order of `classes`.

        Raises:
            ModelError: the store does not say of which prompts and model they were made.
        """
        made, templates = store.attrs.get("text_identity") or {}, store.attrs.get("templates")
        try:
            before, after = templates[0].split("{}")
            texts = [made["prompts"][name][0] for name in classes]
            fingerprint = dict(made["model"])
        except (KeyError, TypeError, ValueError, IndexError):
            message = "does not say of which prompts and text model its texts were made"
            raise ModelError(message, path=store.path, remedy=REMEDY) from None
        words = (text[len(before) : len(text) - len(after)] for text in texts)
        return cls(tuple(words), tuple(templates), spec, fingerprint)

    @property
    def identity(self) -> list[Any]:
        """All that decides a fit, JSON values."""
        return [self.words, self.templates, self.fingerprint]

    def take(self, order: Sequence[int]) -> Self:
        """Return the prompts with the classes in another order."""
        return replace(self, words=tuple(self.words[c] for c in order))

    def tower(self) -> TextTower:
        """Return the text tower; it is loaded once in a process.

        Raises:
            ModelError: weights are missing, or they are not those that made the features.
        """
        key = sha256_json(self.fingerprint)
        if key not in _towers:
            _towers[key] = TextTower(load_clip_again(self.spec, self.fingerprint))
        return _towers[key]


class TextTower:
    """The frozen text encoder of a CLIP, given learnt vectors in place of some token embeddings.

    The model's own forward pass is run, and a hook replaces what its embedding layer returns: so
    positions, attention mask, pooling and projection are the model's own, for open_clip's text
    transformers and for those of transformers alike (where `inputs_embeds` would lose the token
    ids, which decide the mask and the positions of some).

    Attributes:
        width: of a token embedding.
        std: standard deviation of the entries of the token embeddings.
    """

    def __init__(self, clip: ClipModel):
        self.model, self.tokenizer, self.count = clip.model, clip.tokenizer, clip.count_tokens
        self.context_length = clip.context_length
        text = getattr(self.model, "text", self.model)
        own = isinstance(text, HFTextEncoder)
        self.embedding = text.transformer.get_input_embeddings() if own else text.token_embedding
        self.width, self.std = self.embedding.weight.shape[1], self.embedding.weight.std().item()
        # What follows the last token of a text changes nothing where a mask hides it. Of the
        # models of open_clip it does if attention looks back only and the end token is read.
        pool = getattr(text, "pool_type", getattr(self.model, "text_pool_type", ""))
        mask = getattr(text, "attn_mask", None)
        looks_back = mask is not None and getattr(text, "cls_emb", None) is None
        self.trims = own or (looks_back and pool in ("argmax", "eos", "first"))
        self.cut = {}
        if self.trims and not own:
            prefix = "" if text is self.model else "text."
            self.cut = {f"{prefix}positional_embedding": text.positional_embedding}
            self.cut |= {f"{prefix}attn_mask": mask}

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, padded to the context length."""
        return self.tokenizer([text])[0].tolist()

    def content(self, text: str) -> tuple[int, int]:
        """Return where the tokens of a text begin and end between those that every text has."""
        ids, twice = self.tokens(text), self.tokens(f"{text} {text}")
        return _common(ids, self.tokens("")), _common(ids, twice)

    def embed(self, text: str) -> Tensor:
        """Return the embeddings of a text's own tokens, (M, width)."""
        begin, end = self.content(text)
        return self.embedding.weight[self.tokens(text)[begin:end]].detach().clone()

    def prompts(self, words: Sequence[str], before: int, after: int = 0) -> tuple[Tensor, Tensor]:
        """Return token ids of "V..V words V..V." and the places of the learnt vectors V.

        Args:
            words: of each class.
            before, after: number of vectors before and after them.

        Returns:
            int64 (C, L), where L is the length of the longest prompt if the rest of the context
            may be left out, and int64 (C, before + after).

        Raises:
            ModelError: a prompt is longer than the tower's context.
        """
        empty, rows, places, extra = self.tokens(""), [], [], before + after
        for text in (f"{one}." for one in words):
            if (length := self.count(text) + extra) > (most := self.context_length):
                message = f"{text!r} and {extra} vectors are {length} tokens, the maximum is {most}"
                raise ModelError(message, remedy="shorten these words, or use fewer vectors")
            ids, (begin, end) = self.tokens(text), self.content(text[:-1])
            # Any id that is neither an end token nor padding holds a place.
            held = ids[:begin] + before * [ids[begin]] + ids[begin:end] + after * [ids[begin]]
            rows.append((held + ids[end:])[: self.context_length])
            second = end + before
            places.append([*range(begin, begin + before), *range(second, second + after)])
        used = max(len(row) - _common(row[::-1], empty[::-1]) for row in rows)
        ids = torch.tensor(rows)
        return ids[:, :used] if self.trims else ids, torch.tensor(places, dtype=torch.long)

    def encode(self, ids: Tensor, places: Tensor, context: Tensor) -> Tensor:
        """Return the text features of prompts, float32 (n, d) with rows of length 1.

        Gradients flow to `context`, (n, M, width), which stands at `places` (n, M) of `ids` (n, L).
        """

        def put(_module: Any, _ids: Any, embedded: Tensor) -> Tensor:
            rows = torch.arange(len(ids))[:, None]
            return embedded.index_put((rows, places), context.to(embedded.dtype))

        cut = {k: v[: ids.shape[1]] for k, v in self.cut.items()}
        cut = {k: v[:, : ids.shape[1]] if k.endswith("attn_mask") else v for k, v in cut.items()}
        hook = self.embedding.register_forward_hook(put)
        try:
            return functional_call(self.model, cut, (), {"text": ids}, tie_weights=False)[1]
        finally:
            hook.remove()


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    """Return how many ids at the start are the same."""
    pairs = zip(one, two, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
