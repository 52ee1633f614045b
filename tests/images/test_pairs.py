"""The same picture in any file gives the same features; another picture does not."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.config import EncodeParams
from pipeline.images import read_image
from tests.images.makers import dicom, grey, save_dicom, save_nifti

LPS = np.diag([-1.0, -1, 1, 1])


@pytest.fixture(scope="module")
def encode():
    from pipeline.encode import encode_images
    from pipeline.models import ModelSpec, load_clip

    clip = load_clip(ModelSpec(name="clip-micro", checkpoint="package"))

    def run(images: list[np.ndarray]) -> np.ndarray:
        masks = [np.ones(image.shape[:2], bool) for image in images]
        found = encode_images(images, masks, EncodeParams(), clip, views=("whole",))[:, 0]
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return run


def save_everywhere(picture: np.ndarray, folder) -> dict[str, np.ndarray]:
    """Write one 8-bit picture in many ways; return what is read."""
    deep = picture.astype(np.uint16) * 15 + 20
    Image.fromarray(picture).save(folder / "a.png")
    Image.fromarray(picture).save(folder / "b.jpg", quality=95)
    Image.fromarray(picture).save(folder / "c.webp", quality=95)
    Image.fromarray(picture).convert("P").save(folder / "d.bmp")
    (folder / "e.png").write_bytes(imagecodecs.png_encode(deep))
    tifffile.imwrite(folder / "f.tif", deep.astype(np.float32), byteorder=">")
    tifffile.imwrite(folder / "g.tif", 255 - picture, photometric="miniswhite")
    save_dicom(dicom(deep, bits=12), folder / "h.dcm")
    window = {"WindowCenter": "1932.5", "WindowWidth": "3826"}
    save_dicom(dicom(deep, bits=12, **window), folder / "i.dcm")
    save_dicom(dicom(4095 - deep, bits=12, model="MONOCHROME1"), folder / "j.dcm")
    save_nifti(deep.T.astype(np.int16), folder / "k.nii.gz", LPS)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(picture)).save(folder / "l.png", exif=exif)
    return {path.name: read_image(path) for path in sorted(folder.iterdir())}


def test_one_picture_in_twelve_kinds_of_file_has_one_feature(tmp_path, encode):
    arrays = save_everywhere(grey(96, 128), tmp_path)
    assert len(arrays) == 12
    features = encode(list(arrays.values()))
    cosine = dict(zip(arrays, features @ features[0], strict=True))
    assert min(cosine.values()) > 0.98, cosine
    first = arrays["a.png"]
    others = [first[:, ::-1], first[::-1], 255 - first]
    apart = encode([first, *(np.ascontiguousarray(o) for o in others)])
    assert (apart[1:] @ apart[0]).max() < min(cosine.values())
