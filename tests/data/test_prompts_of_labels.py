"""Labels and the prompts that are to be written for them, by `data add` and `data check`."""

from __future__ import annotations

from pipeline.encode.text import load_prompts
from pipeline.intake import add_dataset
from pipeline.paths import Paths
from tests.data.conftest import picture
from tests.project import in_process


def test_check_joins_labels_to_prompts_as_written_and_refuses_an_empty_file(tmp_path, project):
    for label in ("007", "True"):
        picture(tmp_path / "odd" / label / "x.png", seed=len(label))
    add_dataset("odd", tmp_path / "odd", paths=Paths(project))
    prompts = project / "data_manifests/prompts.yaml"
    for text, expected_code, expected in (
        ("classes: {odd: {007: an agent, True: truth}}", 0, "2 images"),
        ("", 2, "prompts.yaml: holds no table"),
    ):
        prompts.write_text(text)
        code, said = in_process(project, "data", "check", "--dataset", "odd")
        assert code == expected_code and expected in said, said
        assert "Traceback" not in said


def test_add_ends_with_the_prompts_that_are_to_be_written(tmp_path, project):
    for label in ("no: finding", "Mass lesion"):
        picture(tmp_path / "chest" / label / "x.png", seed=len(label))
    prompts = project / "data_manifests/prompts.yaml"
    add = ("data", "add", "chest", "--from", str(tmp_path / "chest"))
    code, said = in_process(project, *add)
    *_, told = said.splitlines()
    needed = told.partition("classes.chest needs ")[2]
    assert code == 0 and told.startswith("next: ") and "prompts.yaml" in told, said
    prompts.write_text(f"templates: {{default: ['a scan of {{}}.']}}\nclasses: {{chest: {needed}}}")
    texts = load_prompts(prompts, "chest", ["Mass lesion", "no: finding"]).by_class()
    assert texts["no: finding"] == ["a scan of a phrase for no: finding."]
    code, said = in_process(project, *add)
    assert code == 0 and "next: " not in said, said
    prompts.write_text("classes: [")
    assert in_process(project, *add)[0] == 0
