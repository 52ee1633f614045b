"""params.yaml: what is allowed, and how a wrong value is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import load_params
from pipeline.errors import ConfigError

RUN = {"name": "Whole image", "learner": "linear-probe", "view": "whole"}
PROBE = {"name": "Masked image", "learner": "linear-probe", "view": "masked"}


def test_the_shipped_file_spells_out_every_default(repo: Path) -> None:
    params = load_params(repo / "params.yaml")
    raw = yaml.safe_load((repo / "params.yaml").read_text())
    for name in ("audit", "segment", "encode", "splits", "train", "study", "evaluate", "report"):
        section = getattr(params, name)
        assert section == type(section)(), f"{name}: the file differs from the code's default"
        aliases = {f.alias or n for n, f in type(section).model_fields.items()}
        assert set(raw[name]) == aliases, f"{name}: the file does not spell out every parameter"
        for field, info in type(section).model_fields.items():
            assert info.description, f"{name}.{field}: config.py does not say what it means"


def test_parameters_cannot_be_changed_after_parsing(repo: Path) -> None:
    params = load_params(repo / "params.yaml")
    with pytest.raises(Exception, match="frozen"):
        params.train.seeds = (1,)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("train.seed", 0, "train.seed: there is no such parameter .*did you mean train.seeds"),
        ("segmnet", {}, "segmnet: there is no such parameter .*did you mean segment"),
        ("encode.fill", "red", "encode.fill"),
        ("splits.fractions", [0.5, 0.1], "splits.fractions"),
        ("splits.fractions", [], "splits.fractions"),
        ("splits.fractions", [0.00009, 1.0], "splits.fractions: .* rise within 0.0001 to 1"),
        ("splits.fractions", [0.1, 0.10004], "splits.fractions: .* rounded to 4 decimals"),
        ("train.seeds", [0, 20240101], "train.seeds.1: .* less than or equal to 32767"),
        ("train.seeds", [-1], "train.seeds.0: .* greater than or equal to 0"),
        ("train.seeds", [3, 0, 3], "train.seeds: .* each value once"),
        ("prompt_quality.strategies", ["box", "box"], "strategies: .* each value once"),
        ("prompt_quality.strategies", [], "strategies: .* at least 1 item"),
        ("profile", "huge", "embedded, paper"),
        ("profiles.embedded.sam2.sha256", "abc", "profiles.embedded.sam2.sha256"),
        ("train.views", {"secret": ["whole"]}, "train.views"),
        ("train.views", {"official": ["whole", "maskd"]}, "train.views.official: .* 'maskd'"),
        ("train.views", {"grouped": ["whole", "whole"]}, "train.views.grouped: .* value once"),
        ("learners", {"a b": {}}, "learners.a b.*: .* match pattern"),
        ("study.runs", [RUN, PROBE | {"learner": "probe"}], "study: there is no learner 'probe'"),
        ("study.runs", [RUN, PROBE | {"view": "maskd"}], "study: there is no view 'maskd'"),
        ("study.baseline.view", "masked", "study: .* first of runs must be the baseline"),
        ("study.runs", [], "study.runs: .* at least 1 item"),
        ("study.runs", [RUN, RUN], "study: .* each name may occur only once"),
        ("study.runs", [RUN, RUN | {"name": "again"}], "study: .* each run may occur only once"),
        ("datasets", ["a", "../x"], "datasets.1: .* match pattern"),
        ("datasets", ["a", "b c"], "datasets.1: .* match pattern"),
        ("datasets", ["a", "b", "a"], "datasets: .* value once"),
        ("datasets.x", 1, "datasets is no table"),
        ("train.seeds.first", 1, "train.seeds is no table"),
        ("segment.max_area", 0.001, "segment: .*min_area: 0.002 is more than max_area"),
    ],
)
def test_a_wrong_value_is_named_by_its_dotted_key(
    repo: Path, key: str, value: object, named: str
) -> None:
    with pytest.raises(ConfigError, match=re.sub(r"\.(?!\*)", r"\.", named)) as caught:
        load_params(repo / "params.yaml", {key: value})
    assert "params.yaml" in str(caught.value)
    assert "no table" in str(caught.value) or f"--set gave: {key}" in str(caught.value)


def test_seeds_and_fractions_up_to_their_limits_are_taken(repo: Path) -> None:
    limits = {"train.seeds": [32767, 0], "splits.fractions": [0.0001, 0.0002, 1 / 3, 1]}
    params = load_params(repo / "params.yaml", limits)
    assert params.train.seeds == (32767, 0) and params.splits.fractions[0] == 0.0001


def test_a_view_of_ones_own_may_be_trained_on_once_it_is_encoded(repo: Path) -> None:
    views = {"encode.views": ["whole", "mine"], "train.views": {"official": ["mine"]}}
    assert load_params(repo / "params.yaml", views).train.views == {"official": ("mine",)}
    # For one command fewer views may be asked than `train` needs; it looks into the store itself.
    load_params(repo / "params.yaml", {"encode.views": ["whole"]})


def test_all_problems_are_listed_at_once(repo: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_params(repo / "params.yaml", {"splits.folds": 0, "encode.crop_margin": -1})
    assert "splits.folds" in str(caught.value) and "encode.crop_margin" in str(caught.value)


@pytest.mark.parametrize("text", [b"a: [", b"- 1\n- 2\n", b"", b"# Gr\xfc\xdfe\na: 1\n"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "params.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="project folder"):
        load_params(tmp_path / "params.yaml")
