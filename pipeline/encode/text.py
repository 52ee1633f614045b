"""T = E_t(t): every template of every class, from data_manifests/prompts.yaml.

The file has two parts:

    templates:
      default: ["a photo of {}."]
      brain: ["an MRI scan of {}.", "a brain scan showing {}."]
    classes:
      brain: {glioma: a glioma, notumor: a healthy brain}

`{}` is replaced by the words of the class. Classes are joined to labels by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import PipelineError

TEXT_VERSION = 1
"""Incremented when the same prompts and model give other text features than before."""


class PromptError(PipelineError):
    """prompts.yaml does not give every class a complete prompt of its own."""


@dataclass(frozen=True)
class Prompts:
    """The texts of a dataset.

    Args:
        classes: labels, in the requested order.
        templates: as written, with `{}`.
        texts: indexed by class, then template.
        path: of prompts.yaml.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    path: Path

    def by_class(self) -> dict[str, list[str]]:
        """Return the texts of each class."""
        return {c: list(t) for c, t in zip(self.classes, self.texts, strict=True)}

    def flat(self) -> list[str]:
        """Return all texts, class by class."""
        return [text for texts in self.texts for text in texts]


def load_prompts(path: str | Path, dataset: str, classes: Sequence[str]) -> Prompts:
    """Read the prompts of a dataset's classes.

    Args:
        path: of prompts.yaml.
        dataset: name of the dataset in the file.
        classes: labels that need prompts.

    Raises:
        PromptError: the file or a part of it is missing or malformed, a class has no words or a
            list of them, or two classes have the same text. All problems of a kind are listed.
    """
    path = Path(path)
    templates = _templates(path, dataset)
    words = _table(path, "classes").get(dataset)
    if not isinstance(words, dict):
        remedy = f"write classes.{dataset} such as {skeleton(classes)}"
        raise PromptError(f"has no table classes.{dataset}", path=path, remedy=remedy)
    problems = [c for c in classes if not str(words.get(c, "")).strip()]
    if problems:
        raise PromptError(
            f"no prompt for {dataset}: {', '.join(problems)}",
            path=path,
            remedy=f"add them under classes.{dataset}, which has {', '.join(sorted(words))}",
        )
    problems = [c for c in classes if not isinstance(words[c], str)]
    if problems:
        raise PromptError(
            f"classes.{dataset}: more than one phrase for {', '.join(problems)}",
            path=path,
            remedy="write one phrase per class; put other wordings into templates",
        )
    texts = tuple(tuple(t.replace("{}", words[c].strip()) for t in templates) for c in classes)
    owner: dict[str, str] = {}
    for name, own in zip(classes, texts, strict=True):
        for text in own:
            other = owner.setdefault(" ".join(text.casefold().split()), name)
            if other != name:
                problems.append(f"{other} and {name}: {text!r}")
    if problems:
        raise PromptError(
            f"{dataset}: two classes with the same prompt: {'; '.join(problems)}",
            path=path,
            remedy="a prompt must differ from those of all other classes; change one",
        )
    return Prompts(tuple(classes), templates, texts, path)


def skeleton(classes: Sequence[str]) -> str:
    """Return a line of YAML with a placeholder phrase for each class."""
    table = {name: f"a phrase for {name}" for name in classes}
    line = yaml.safe_dump(
        table, default_flow_style=True, allow_unicode=True, sort_keys=False, width=float("inf")
    )
    return line.strip()


def prompted_classes(path: Path, dataset: str) -> list[str] | None:
    """Return the classes that prompts.yaml lists for a dataset.

    Args:
        path: of prompts.yaml.
        dataset: name of the dataset in the file.

    Returns:
        Their names, sorted; None if there is no such file or it does not list the dataset.

    Raises:
        PromptError: the file is not YAML, or it has no table of classes.
    """
    if not path.is_file():
        return None
    classes = _table(path, "classes")
    if not isinstance(classes.get(dataset, {}), dict):
        raise PromptError(
            f"has no table classes.{dataset}", path=path, remedy="write a phrase for each class"
        )
    return sorted(classes[dataset]) if dataset in classes else None


def check_length(prompts: Prompts, count_tokens: Callable[[str], int], limit: int) -> None:
    """Refuse texts that the tokenizer would truncate silently.

    Args:
        prompts: the texts.
        count_tokens: returns the number of tokens of a text, including start and end tokens.
        limit: context length of the model.

    Raises:
        PromptError: lists every text that is too long, with its length.
    """
    lengths = {text: count_tokens(text) for text in prompts.flat()}
    cut = [f"{text!r} ({n} tokens)" for text, n in lengths.items() if n > limit]
    if cut:
        raise PromptError(
            f"longer than the text model's {limit} tokens: {'; '.join(cut)}",
            path=prompts.path,
            remedy="shorten these prompts",
        )


def text_identity(prompts: Prompts, fingerprint: Any, precision: str) -> dict[str, Any]:
    """Return everything that decides the text features."""
    return {
        "text_version": TEXT_VERSION,
        "model": fingerprint,
        "precision": precision,
        "prompts": prompts.by_class(),
        "templates": list(prompts.templates),
    }


def _table(path: Path, name: str) -> dict[str, Any]:
    """Return a part of prompts.yaml, "templates" or "classes"."""
    try:
        # BaseLoader reads all scalars as text: a class called 007, no or 1e5 keeps its name.
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        remedy = "write a file with the prompts of each class"
        raise PromptError("no such file", path=path, remedy=remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PromptError(f"not valid YAML: {error}", path=path, remedy="correct it") from None
    part = table.get(name) if isinstance(table, dict) else None
    if not isinstance(part, dict):
        raise PromptError(f"has no table {name}", path=path, remedy=f"add {name}: to it")
    return part


def _templates(path: Path, dataset: str) -> tuple[str, ...]:
    table = _table(path, "templates")
    templates = table.get(dataset) or table.get("default")
    if isinstance(templates, str):
        templates = [templates]
    remedy = f'list texts such as "a scan of {{}}." under templates.{dataset} or templates.default'
    if not templates or not all(isinstance(t, str) for t in templates):
        raise PromptError(f"has no templates for {dataset}", path=path, remedy=remedy)
    bad = [t for t in templates if t.count("{}") != 1]
    if bad:
        raise PromptError(f"templates without exactly one {{}}: {bad}", path=path, remedy=remedy)
    if len(set(templates)) != len(templates):
        raise PromptError("a template is listed twice", path=path, remedy="remove one of them")
    return tuple(templates)
