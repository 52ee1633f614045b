"""The tutorial on masks: its blocks are run as they stand, on phantoms, and a script corrects."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from urllib.parse import quote

import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from pipeline.images import read_mask
from pipeline.paths import Paths
from pipeline.phantoms import make_sample
from pipeline.review.edits import VARIANT, Edits
from pipeline.store import open_masks
from tests.review.conftest import Served, png
from tests.site import REPO, Site, small_study

BLOCK = re.compile(r"^```(bash|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = {
    **{"segment": {"prompt": "salient", "max_failed": 1.0}},
    **{"adapt": {"method": "decoder", "steps": 1, "batch_size": 1}},
    **{"encode": {"views": ["whole", "masked", "random"]}, "evaluate": {"bootstrap": 20}},
    **{"splits": {"folds": 2, "fractions": [1.0]}, "train": {"seeds": [0, 1]}},
    **{"learners": {"linear-probe": {"c_steps": 2}}},
    "profiles": {
        "embedded": {
            "sam2": {"image_size": 64},
            "clip": {"name": "timm:test_efficientnet", "checkpoint": "encoder.safetensors"},
        }
    },
}


def merged(old: dict, new: dict) -> dict:
    """Return nested values with others in their place."""
    both = {
        key: merged(old[key], new[key])
        for key in old.keys() & new.keys()
        if isinstance(new[key], dict)
    }
    return old | new | both


def correct(served: Served, truth: dict, count: int) -> int:
    """Accept the true masks of the first images in random order; return how many have a lesion."""
    marked = 0
    for row in served.call("api/listed?order=random")[1]["rows"][:count]:
        name = row["image_id"]
        item = served.call(f"api/item?id={quote(name)}")[1]
        mask = truth[name.rpartition("/")[2].partition(".")[0]]
        edit = {key: item[key] for key in ("id", "sha256", "version")} | {"state": "nothing"}
        if mask.any():
            edit |= {"state": "accepted", "mask": png(mask)}
        assert served.call("api/save", edit)[0] == 200
        marked += bool(mask.any())
    assert served.call("api/progress")[1]["dice"]["mean"] is not None
    return marked


@pytest.mark.promise(
    "The tutorial from a folder of images to a classifier that looks at the lesion runs as written."
)
def test_the_tutorial_runs_on_phantoms(tmp_path):
    site, drawn = Site(tmp_path / "project"), Paths(tmp_path / "drawn")
    make_sample(drawn, ["breast"], n=12)
    for part in ("train", "test"):
        shutil.copytree(drawn.data("breast") / part, site.root / "scans", dirs_exist_ok=True)
    files = drawn.data("breast").with_name("breast_masks").rglob("*.png")
    truth = {file.stem: read_mask(file) for file in files}
    prompts = (REPO / "data_manifests/prompts.yaml").read_text("utf-8")
    texts = {"params.yaml": merged(small_study(), SMALL)}
    texts["data_manifests/prompts.yaml"] = yaml.safe_load(prompts)

    def write(name: str, values: dict) -> None:
        texts[name] = merged(texts[name], values)
        (site.root / name).parent.mkdir(exist_ok=True)
        (site.root / name).write_text(yaml.safe_dump(texts[name], sort_keys=False))

    for name in texts:
        write(name, {})
    torch.manual_seed(0)
    encoder = timm.create_model("test_efficientnet").state_dict()
    save_file(encoder, site.root / "encoder.safetensors")
    said, marked = "", 0
    for language, text in BLOCK.findall((REPO / "docs/tutorial_masks.md").read_text("utf-8")):
        if language == "yaml":
            write(re.match(r"# (\S+)\n", text)[1], yaml.safe_load(text))
            continue
        for program, *arguments in map(shlex.split, text.splitlines()):
            if arguments[0] == "review":
                served = Served(site.begin(*arguments))
                marked = correct(served, truth, 8)
                served.end(signal.SIGKILL)  # the next command takes over what was accepted
            else:
                said += site.run(program, *arguments)
    paths = Paths(site.root)
    rows = pd.read_parquet(paths.compare("lesions"))
    names = {run["name"] for run in texts["params.yaml"]["study"]["runs"]}
    assert names == set(rows["name"]) and rows["accuracy"].between(0, 1).all()
    assert "no image of normal has a mask" in said
    made = open_masks(paths.masks("lesions", VARIANT))
    assert 2 < marked == made.table()["prompt"].str.startswith("reviewed: accepted").sum()
    adapted = open_masks(paths.masks("lesions", "lesion/0")).identity["model"]["fingerprint"]
    assert {*adapted["adapter"]["images"]} < {*Edits(paths.reviewed("lesions")).known}
