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
    table = _read(path)
    templates = _templates(table, dataset, path)
    parts = _part(table, "classes", path)
    if dataset not in parts:
        remedy = f"write classes.{dataset} such as {skeleton(classes)}"
        raise PromptError(f"has no table classes.{dataset}", path=path, remedy=remedy)
    words = _part(parts, dataset, path, "classes")
    missing = [c for c in classes if not str(words.get(c, "")).strip()]
    if missing:
        spare = sorted(set(words) - set(classes))
        raise PromptError(
            f"no prompt for {dataset}: {', '.join(missing)}",
            path=path,
            remedy=f"add them under classes.{dataset}"
            + (f" (it has, for no label: {', '.join(spare)})" if spare else ""),
        )
    several = [c for c in classes if not isinstance(words[c], str)]
    if several:
        raise PromptError(
            f"classes.{dataset}: more than one phrase for {', '.join(several)}",
            path=path,
            remedy="write one phrase per class; put other wordings into templates",
        )
    texts = tuple(tuple(t.replace("{}", words[c].strip()) for t in templates) for c in classes)
    _check_distinct(dataset, classes, texts, path)
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
    classes = _part(_read(path), "classes", path)
    return sorted(_part(classes, dataset, path, "classes")) if dataset in classes else None


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


def _read(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader reads all scalars as text: a class called 007, no or 1e5 keeps its name.
        table = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise PromptError(
            "no such file", path=path, remedy="write a file with the prompts of each class"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PromptError(
            f"not valid YAML: {error}", path=path, remedy="correct the file"
        ) from None
    if not isinstance(table, dict):
        raise PromptError("holds no table", path=path, remedy="give it templates: and classes:")
    return table


def _part(table: dict[str, Any], name: str, path: Path, parent: str = "") -> dict[str, Any]:
    part = table.get(name)
    dotted = f"{parent}.{name}" if parent else name
    if not isinstance(part, dict):
        raise PromptError(f"has no table {dotted}", path=path, remedy=f"add {dotted} to it")
    return part


def _templates(table: dict[str, Any], dataset: str, path: Path) -> tuple[str, ...]:
    part = _part(table, "templates", path)
    templates = part.get(dataset) or part.get("default")
    where = f"templates.{dataset if part.get(dataset) else 'default'}"
    if isinstance(templates, str):
        templates = [templates]
    if not templates or not all(isinstance(t, str) for t in templates):
        raise PromptError(
            f"has no templates for {dataset}", path=path, remedy=f"list some under {where}"
        )
    bad = [t for t in templates if t.count("{}") != 1]
    if bad or len(set(templates)) != len(templates):
        what = f"without exactly one {{}}: {bad}" if bad else "a template is listed twice"
        raise PromptError(f"{where}: {what}", path=path, remedy='write such as "a scan of {}."')
    return tuple(templates)


def _check_distinct(
    dataset: str, classes: Sequence[str], texts: Sequence[Sequence[str]], path: Path
) -> None:
    owner: dict[str, str] = {}
    same: list[str] = []
    for name, own in zip(classes, texts, strict=True):
        for text in own:
            plain = " ".join(text.casefold().split())
            if owner.setdefault(plain, name) != name:
                same.append(f"{owner[plain]} and {name}: {text!r}")
    if same:
        raise PromptError(
            f"{dataset}: two classes with the same prompt: {'; '.join(same)}",
            path=path,
            remedy="a prompt must differ from those of all other classes; change one",
        )
