"""A small trained SAM2 and images made on the spot."""

from __future__ import annotations

import pytest
import torch

from pipeline.config import SegmentParams
from pipeline.engine.options import RunOptions
from pipeline.segment.guide import Guide, Words
from pipeline.segment.segment import segment_dataset
from tests.encode.conftest import small_clip
from tests.project import DATASET, Project
from tests.segment.small_sam2 import scene, trained


@pytest.fixture(scope="session")
def sam2():
    """A SAM2ImagePredictor that finds bright ellipses."""
    return trained()


@pytest.fixture(scope="session")
def guide():
    """Words, and a CLIP with random weights."""
    return Guide(Words(object=["a bright ellipse"], background=["grey noise"]), small_clip())


@pytest.fixture(scope="session")
def clipseg(tmp_path_factory):
    """A folder with a CLIPSeg of transformers' own classes, with random weights."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, ViTImageProcessor

    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**tower, "num_hidden_layers": 1, "vocab_size": 49408},
        vision_config={**tower, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        **{"projection_dim": 16, "reduce_dim": 8, "extract_layers": [0, 1, 2]},
        **{"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
    )
    folder = tmp_path_factory.mktemp("clipseg")
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    look = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    ViTImageProcessor(size={"height": 32, "width": 32}, **look).save_pretrained(folder)
    return folder


@pytest.fixture
def params(request):
    """`params(prompt="auto", ...)`: the segment section with some values changed."""

    def section(**values):
        if values.get("prompt") == "clipseg":
            values = {"clipseg": str(request.getfixturevalue("clipseg")), **values}
        return SegmentParams(**{"grid": 3, **values})

    return section


@pytest.fixture
def ellipses(tmp_path):
    """`ellipses(5)`: a project of so many images with ground truth, of cats and dogs."""

    def make(count: int) -> Project:
        made = Project(tmp_path)
        for i in range(count):
            image, region = scene(i, 40 + 5 * i, 70 - 6 * i)
            made.add(f"{i}.png", image, region, label="cat" if i % 2 else "dog")
        return made

    return make


@pytest.fixture
def run(project, sam2, guide, request):
    """`run("auto", segment__grid=2, force=True)`: segment the project of a test; names with __ are
    parameters, others options of the run."""

    def segment(prompt="salient", *, predictor=sam2, variant="", **given):
        if prompt == "clipseg":
            given["segment__clipseg"] = str(request.getfixturevalue("clipseg"))
        changed = {"segment__grid": 3} | {n: given.pop(n) for n in list(given) if "__" in n}
        params = project.params(segment__prompt=prompt, **changed)
        options = RunOptions(**{"workers": 1, "batch_size": 2, "progress": False} | given)
        models = {"predictor": predictor, "clip": guide.clip}
        return segment_dataset(DATASET, params, project.paths, options, variant=variant, **models)

    return segment


@pytest.fixture(scope="session")
def scenes():
    """Seven images of several sizes with their true regions."""
    return [scene(i, 40 + 7 * i, 80 - 5 * i) for i in range(7)]
