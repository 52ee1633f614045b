"""`encode` on a dataset: features joined by id, texts by name; nothing stale or made up."""

import numpy as np
import pytest
from PIL import Image

from pipeline import open_features, open_masks
from pipeline.encode.encode import encode_dataset
from pipeline.encode.mapper import EncodeMapper
from pipeline.engine.options import RunOptions
from pipeline.errors import StoreError
from pipeline.io import sha256_file
from pipeline.segment.segment import segment_dataset
from tests.project import DATASET, Project

VIEWS = ["whole", "masked", "crop", "binary", "oracle", "random"]


def picture(seed, height, width):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), bool)
    mask[4 : 12 + seed % 7, 6:20] = True
    return image, mask


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    for i in range(5):
        made.add(f"{i}.png", *picture(i, 30 + 5 * i, 60 - 6 * i), label="cat" if i % 2 else "dog")
    return made


@pytest.fixture
def segment(project):
    """Put the ground truth into the mask store: known masks, no model."""

    def run():
        params = project.params(segment__prompt="manifest", segment__max_failed=0.9)
        return segment_dataset(DATASET, params, project.paths, RunOptions(workers=1))

    return run


@pytest.fixture
def run(project, segment, clip):
    segment()

    def encode(model=clip, **options):
        changed = {n: options.pop(n) for n in list(options) if n.startswith("encode__")}
        params = project.params(**{"encode__views": VIEWS, **changed})
        run = RunOptions(**{"workers": 1, **options})
        return encode_dataset(DATASET, params, project.paths, run, clip=model)

    return encode


def features(project):
    return open_features(project.paths.features(DATASET))


def all_views(project):
    """{image_id: float32 (view, d)} of all good rows."""
    store = features(project)
    good = store.table().query("status == 'ok'").index
    stacked = np.stack([store.image_features(view, good) for view in VIEWS], axis=1)
    return dict(zip(good, stacked, strict=True))


@pytest.mark.promise("Run twice, add 10, remove 5, reorder: 0, 10, 0, 0 images computed.")
def test_adding_ten_images_encodes_ten_and_nothing_else(project, run, segment):
    assert run().done == 5
    for i in range(10):
        project.add(f"new{i}.png", *picture(40 + i, 24, 30))
    project.add("copy of 1.png", *picture(1, 35, 54))
    segment()
    record = run()
    assert (record.done, record.copied) == (11, 1)
    stored = all_views(project)  # of a byte copy, the random view is the same as well
    assert np.array_equal(stored["copy of 1.png"], stored["1.png"])
    project.rows.reverse()
    del project.rows[3:6]
    project.write()
    record = run()
    assert (record.done, record.skipped) == (0, 13)


@pytest.mark.promise("A lost mask is never an empty one, and a missing one fails its image.")
def test_a_missing_or_failed_mask_fails_its_image_and_is_never_an_empty_one(project, run, segment):
    project.add("late.png", *picture(8, 30, 40))
    record = run(encode__max_failed=0.5)
    assert record.done == 5 and set(record.failed) == {"late.png"}
    assert "no mask" in record.failed["late.png"]
    assert "pipeline segment" in record.failed["late.png"]
    project.add("bare.png", picture(8, 30, 40)[0])
    segment()
    record = run(encode__max_failed=0.5)
    assert record.done == 1 and "mask failed" in record.failed["bare.png"]


@pytest.mark.promise("A mask of older image bytes is not used.")
@pytest.mark.promise(
    "Other bytes under the same name recompute that image alone; bytes that changed without the "
    "manifest fail with the remedy."
)
def test_other_bytes_under_the_same_name_need_a_new_mask_and_recompute_that_image(
    project, run, segment
):
    run()
    before = all_views(project)
    Image.fromarray(picture(77, 30, 60)[0]).save(project.file("0.png"))
    project.row("0.png")["sha256"] = sha256_file(project.file("0.png"))
    project.write()
    record = run(encode__max_failed=0.5)
    assert "other image bytes" in record.failed["0.png"]
    segment()
    assert set(run().redone_rows) == {"0.png"}
    after = all_views(project)
    changed = {i for i in before if not np.array_equal(before[i], after[i], equal_nan=True)}
    assert changed == {"0.png"}


@pytest.mark.promise(
    "A mask that is replaced while `encode` runs fails its image; its features are not filed under "
    "the older mask."
)
def test_a_mask_that_was_replaced_meanwhile_fails_its_image(run, monkeypatch):
    read = EncodeMapper.load

    def replaced(self, item):
        item.row["mask"]["crc"] ^= item.image_id == "0.png"
        return read(self, item)

    monkeypatch.setattr(EncodeMapper, "load", replaced)
    record = run(encode__max_failed=0.5, force=True)
    assert set(record.failed) == {"0.png"} and "was replaced" in record.failed["0.png"]


def test_an_empty_mask_means_the_whole_image_and_is_recorded(project, run, segment):
    project.add("nothing.png", picture(9, 30, 40)[0], np.zeros((30, 40), bool))
    segment()
    run()
    assert open_masks(project.paths.masks(DATASET)).table().loc["nothing.png", "status"] == "empty"
    row = features(project).table().loc["nothing.png"]
    assert row["mask_status"] == "empty" and "whole image" in row["reason"]
    stored = dict(zip(VIEWS, all_views(project)["nothing.png"], strict=True))
    assert np.array_equal(stored["masked"], stored["whole"])
    assert np.isnan(stored["oracle"]).all()


@pytest.mark.promise("New prompts replace the text features and encode no image.")
def test_a_changed_template_encodes_the_texts_again_and_no_image(project, run, clip):
    run()
    before, images = features(project).text_features, all_views(project)
    project.prompts("a photo of {}.", "a scan of {}.")
    assert run().done == 0
    after = features(project).text_features
    for image_id, views in all_views(project).items():
        np.testing.assert_array_equal(views, images[image_id])
    assert before.shape == (2, 1, 24) and after.shape == (2, 2, 24)
    texts = ["a photo of a cat.", "a scan of a cat.", "a photo of a dog.", "a scan of a dog."]
    expected = clip.encode_text(texts).numpy().reshape(2, 2, 24)
    assert np.allclose(after.sel({"class": ["cat", "dog"]}).values, expected, atol=1e-5)


def test_no_mask_store_ends_the_run_before_anything_is_written(project, clip):
    with pytest.raises(StoreError, match=r"masks\.zarr"):
        encode_dataset(DATASET, project.params(), project.paths, clip=clip)
    assert not project.paths.features(DATASET).exists()
