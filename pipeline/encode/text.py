"""T = E_t(t): every template of every class, from data_manifests/prompts.yaml:

    templates:
      default: ["a photo of {}."]
      brain: ["an MRI scan of {}.", "a brain scan showing {}."]
    classes:
      brain: {glioma: a glioma, notumor: a healthy brain}

`{}` is replaced by the words of the class. Classes are joined to labels by name. Braces have no
other use: a template has one `{}` and no other brace, words have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError

TEXT_VERSION = 1
"""Incremented when the same prompts and model give other text features than before."""


class PromptError(PipelineError):
    """prompts.yaml does not give every class a complete prompt of its own."""


@dataclass(frozen=True)
class Prompts:
    """The templates of a dataset, the texts of each class in their order, and the classes of
    prompts.yaml that are not asked for."""

    templates: tuple[str, ...]
    texts: dict[str, tuple[str, ...]]
    path: Path
    unused: tuple[str, ...] = ()

    def flat(self) -> list[str]:
        """Return all texts, class by class."""
        return [text for texts in self.texts.values() for text in texts]


class _File(BaseModel):
    templates: dict[str, list[str]]
    classes: dict[str, dict[str, str]]


def _read(path: Path) -> _File:
    try:
        # BaseLoader reads all scalars as text: a class called 007, no or 1e5 keeps its name.
        return _File.model_validate(
            yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        )
    except FileNotFoundError:
        problem = "no such file"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = f"not valid YAML: {error}"
    except ValidationError as error:
        found = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        problem = "; ".join(f"{where or 'the file'}: {what}" for where, what in found)
    remedy = 'write templates: {default: ["a scan of {}."]} and classes: {dataset: {label: words}}'
    raise PromptError(problem, path=path, remedy=remedy)


def load_prompts(path: str | Path, dataset: str, classes: Sequence[str]) -> Prompts:
    """Read the prompts of a dataset's classes from prompts.yaml, in the order of `classes`.

    Raises:
        PromptError: the file is missing or malformed, a class has no words or words with a brace,
            a template does not have exactly one {} and no other brace, or two classes have the
            same text.
    """
    path = Path(path)
    file = _read(path)
    templates = tuple(file.templates.get(dataset) or file.templates.get("default") or ())
    wrong = [t for t in templates if _braces(t) != "{}" or templates.count(t) > 1]
    if wrong or not templates:
        raise PromptError(
            f"the templates of {dataset} are {list(templates)}",
            path=path,
            remedy=f"list different texts under templates.{dataset}, each with one {{}}, which "
            "stands for the class, and no other brace",
        )
    words = {name: text.strip() for name, text in file.classes.get(dataset, {}).items()}
    unused = tuple(name for name in words if name not in classes)
    if missing := [name for name in classes if not words.get(name)]:
        phrases = {name: f"a phrase for {name}" for name in missing}
        style = {"default_flow_style": True, "allow_unicode": True, "sort_keys": False}
        line = yaml.safe_dump(phrases, **style, width=float("inf")).strip()
        raise PromptError(
            f"no prompt for {dataset}: {', '.join(missing)}"
            + (f" (there are some for {', '.join(unused)}, no class of it)" if unused else ""),
            path=path,
            remedy=f"write classes.{dataset} such as {line}",
        )
    if wrong := [f"{name}: {words[name]!r}" for name in classes if _braces(words[name])]:
        raise PromptError(
            f"words with braces, which would be encoded as they are: {'; '.join(wrong)}",
            path=path,
            remedy=f"write classes.{dataset} in plain words; {{}} belongs into the templates",
        )
    texts = {name: tuple(t.replace("{}", words[name]) for t in templates) for name in classes}
    owner: dict[str, str] = {}
    for name, own in texts.items():
        for text in own:
            other = owner.setdefault(" ".join(text.casefold().split()), name)
            if other != name:
                raise PromptError(
                    f"{dataset}: {other} and {name} have the same prompt, {text!r}",
                    path=path,
                    remedy="a prompt must differ from those of all other classes; change one",
                )
    return Prompts(templates, texts, path, unused)


def _braces(text: str) -> str:
    return "".join(character for character in text if character in "{}")


def prompted_classes(path: Path, dataset: str) -> list[str] | None:
    """Return the classes that prompts.yaml lists for a dataset, sorted; None if it lists none."""
    classes = _read(path).classes if path.is_file() else {}
    return sorted(classes[dataset]) if dataset in classes else None


def check_length(prompts: Prompts, count_tokens: Callable[[str], int], limit: int) -> None:
    """Refuse texts that the tokenizer would truncate silently: PromptError with their lengths.

    `count_tokens` returns the number of tokens of a text, including start and end tokens; `limit`
    is the context length of the model.
    """
    lengths = {text: count_tokens(text) for text in prompts.flat()}
    cut = [f"{text!r} ({n} tokens)" for text, n in lengths.items() if n > limit]
    if cut:
        message = f"longer than the text model's {limit} tokens: {'; '.join(cut)}"
        raise PromptError(message, path=prompts.path, remedy="shorten these prompts")


def text_identity(prompts: Prompts, fingerprint: Any, precision: str) -> dict[str, Any]:
    """Return everything that decides the text features."""
    return {
        "text_version": TEXT_VERSION,
        "model": fingerprint,
        "precision": precision,
        "prompts": {name: list(texts) for name, texts in prompts.texts.items()},
        "templates": list(prompts.templates),
    }
