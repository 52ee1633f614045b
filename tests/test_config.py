"""params.yaml: what is allowed, how a wrong value is named; and the errors that say so."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import yaml

from pipeline import errors
from pipeline.config import POOLED_VIEWS, load_params
from pipeline.errors import ConfigError, ImageError, PipelineError
from pipeline.learners.base import find_learner

CHANGED = {"encode": {"views"}, "splits": {"shots"}, "study": {"runs"}}
"""What the shipped file has more of than the code's default: the whole comparison."""
RUN = {"name": "Whole image", "learner": "linear-probe", "view": "whole"}
PROBE = {"name": "Masked image", "learner": "linear-probe", "view": "masked"}


def test_the_shipped_file_spells_out_every_default(repo: Path) -> None:
    params = load_params(repo / "params.yaml")
    raw = yaml.safe_load((repo / "params.yaml").read_text())
    for name in ("audit", "segment", "encode", "splits", "train", "study", "evaluate", "report"):
        section = getattr(params, name)
        other = CHANGED.get(name, set())
        here, there = section.model_dump(exclude=other), type(section)().model_dump(exclude=other)
        assert here == there, f"{name}: the file differs from the code's default"
        aliases = {f.alias or n for n, f in type(section).model_fields.items()}
        assert set(raw[name]) == aliases, f"{name}: the file does not spell out every parameter"
        for field, info in type(section).model_fields.items():
            assert info.description, f"{name}.{field}: config.py does not say what it means"
    with pytest.raises(Exception, match="frozen"):
        params.train.seeds = (1,)


def test_each_row_of_the_shipped_study_is_trained_on_views_that_are_encoded(repo: Path) -> None:
    params, trained = load_params(repo / "params.yaml"), set()
    for name, section in params.learners.items():
        cls, own = find_learner(name, section, repo)
        views = {view for of in (own.views or params.train.views).values() for view in of}
        trained |= {(name, view) for view in views}
        parts = {part for view in views for part in cls(own).views(view)}
        assert parts <= set(params.encode.views), name
        assert not (cls.needs_text and parts & set(POOLED_VIEWS)), name
    assert {run.key for run in params.study.runs} <= trained


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("train.seed", 0, "train.seed: "),
        ("splits.fractions", [0.00009, 1.0], "splits.fractions: .* rise within 0.0001 to 1"),
        ("splits.fractions", [0.1, 0.10004], "splits.fractions: .* rounded to 4 decimals"),
        ("train.seeds", [3, 0, 3], "train.seeds: .* each value once"),
        ("profile", "huge", "profile: 'huge' is not one of embedded, medsam2, paper"),
        ("train.views", {"official": ["whole", "whole+maskd"]}, "train.views.official: 'maskd'"),
        ("profiles.paper.sam2.text", "bert", "profiles.paper: .* sam2 has no text"),
        ("profiles.paper.sam2.image_size", 500, "profiles.paper.sam2.image_size: .* multiple of"),
        ("train.views", {"official": ["dim+dim"]}, "train.views.official: .* with itself"),
        ("learners", {"a b": {}}, "learners.a b.*: .* match pattern"),
        ("study.runs", [RUN, PROBE | {"learner": "probe"}], "study: learner: 'probe'"),
        ("study.runs", [RUN, PROBE | {"view": "maskd"}], "study: view: 'maskd'"),
        ("study.runs", [RUN, PROBE | {"view": "whole+"}], "study: view: ''"),
        ("study.baseline.view", "masked", "study: .* first must be the baseline"),
        ("study.runs", [RUN, RUN | {"name": "again"}], "study: .* must differ"),
        ("train.seeds.first", 1, "train.seeds is no table"),
    ],
)
def test_a_wrong_value_is_named_by_its_dotted_key(
    repo: Path, key: str, value: object, named: str
) -> None:
    with pytest.raises(ConfigError, match=re.sub(r"\.(?!\*)", r"\.", named)) as caught:
        load_params(repo / "params.yaml", {key: value})
    assert "params.yaml" in str(caught.value)
    assert "no table" in str(caught.value) or f"--set gave: {key}" in str(caught.value)
    with pytest.raises(ConfigError, match=r"(?s)encode\.crop_margin.*splits\.folds"):
        load_params(repo / "params.yaml", {"splits.folds": 0, "encode.crop_margin": -1})


def test_what_is_at_a_limit_or_needed_by_one_command_alone_is_taken(repo: Path) -> None:
    limits = {"train.seeds": [32767, 0], "splits.fractions": [0.0001, 0.0002, 1 / 3, 1]}
    params = load_params(repo / "params.yaml", limits)
    assert params.train.seeds == (32767, 0) and params.splits.fractions[0] == 0.0001
    views = {"encode.views": ["mine"], "train.views": {"official": ["mine"]}}
    assert load_params(repo / "params.yaml", views).train.views == {"official": ("mine",)}
    assert load_params(repo / "params.yaml", {"learners.mine": None}).learners["mine"] == {}


@pytest.mark.promise("A relative path of a model starts at the folder of params.yaml.")
@pytest.mark.promise("DVC follows the bytes of weights, or the stage refuses them.")
def test_paths_of_models_start_at_the_file_and_dvc_follows_the_checkpoints(
    repo: Path, tmp_path: Path
) -> None:
    raw = yaml.safe_load((repo / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    for name in ("checkpoints/x.pt", "weights/x.pt", "text/config.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"weights")

    def check(model: str, **keys: object) -> None:
        given = {f"profiles.embedded.{model}.{key}": value for key, value in keys.items()}
        getattr(load_params(tmp_path / "params.yaml", given).models, model).check_followed()

    model = load_params(tmp_path / "params.yaml").models.sam2
    assert model.path("checkpoints/x.pt") == tmp_path / "checkpoints/x.pt"
    assert model.path("/x.pt") == Path("/x.pt") and model.path("~/x.pt") == Path.home() / "x.pt"
    (tmp_path / "checkpoints/linked.pt").symlink_to(tmp_path / "weights/x.pt")
    for followed in ("package", "hf-hub:a/b", "checkpoints/x.pt", "checkpoints/linked.pt"):
        check("sam2", checkpoint=followed)
    check("clip", checkpoint="openai", text="checkpoints")
    check("sam2", checkpoint="weights/x.pt", sha256="0" * 64)
    for model, keys in (
        ("sam2", {"checkpoint": "weights/x.pt"}),
        ("sam2", {"checkpoint": str(tmp_path / "checkpoints/../weights/x.pt")}),
        ("clip", {"name": "local-dir:text"}),
        ("clip", {"text": "text", "sha256": "0" * 64}),
    ):
        with pytest.raises(ConfigError, match="checkpoints/"):
            check(model, **keys)
    stages = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        loads = "check_followed" in (repo / f"stages/{name}.py").read_text()
        assert loads == ("checkpoints" in stage["deps"])
        assert loads or not any(key.startswith("profiles.") for key in stage.get("params", []))


@pytest.mark.parametrize("text", [b"a: [", b"- 1\n- 2\n", b"", b"# Gr\xfc\xdfe\na: 1\n", None])
def test_a_file_that_is_missing_or_no_table_is_refused(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"(?s)params\.yaml.*project folder"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("kind", PipelineError.__subclasses__())
def test_every_kind_of_error_survives_pickling(kind: type[PipelineError]) -> None:
    error = pickle.loads(pickle.dumps(kind("cut short", remedy="copy it again", path="a.png")))
    assert type(error) is kind
    assert str(error) == "a.png: cut short - copy it again"


def test_a_newline_in_a_file_name_does_not_break_the_line() -> None:
    assert "\n" not in str(ImageError("cut short", path="a\nb.png"))


def test_exit_codes_tell_bad_input_from_too_many_failures() -> None:
    assert (errors.ManifestError.exit_code, errors.StageFailed.exit_code) == (2, 3)
