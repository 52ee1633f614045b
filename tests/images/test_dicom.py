"""DICOM as pictures: values in the standard's order, colours, padding, frames as rows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
)

from pipeline.errors import ImageError
from pipeline.images import probe, read_image
from tests.images.makers import colour, dicom, grey, rgb, save_dicom

# Outside of tests the reader silences these; pytest turns all warnings on again.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.filereader"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom.pixels.decoders.base"),
]


def lut(table: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(table), first, bits])
    item.add_new("LUTData", "OW", table.astype("<u2").tobytes())
    return item


def test_eight_bit_grey_and_colour_are_read_byte_for_byte(tmp_path):
    path = save_dicom(dicom(grey()), tmp_path / "x.dcm")
    np.testing.assert_array_equal(read_image(path), rgb(grey()))
    path = save_dicom(dicom(colour(), model="RGB"), tmp_path / "y.dcm")
    np.testing.assert_array_equal(read_image(path), colour())
    assert [(f.width, f.height) for f in probe(path)] == [(56, 40)]


def test_deep_grey_without_a_window_equals_the_same_samples_in_png(tmp_path):
    deep = grey().astype(np.uint16) * 14 + 37
    Image.fromarray(deep).save(tmp_path / "x.png")
    path = save_dicom(dicom(deep, bits=12), tmp_path / "x.dcm")
    np.testing.assert_array_equal(read_image(path), read_image(tmp_path / "x.png"))
    signed = dicom(deep.astype(np.int16) - 1000, RescaleSlope="2", RescaleIntercept="-24")
    path = save_dicom(signed, tmp_path / "y.dcm")
    np.testing.assert_array_equal(read_image(path), read_image(tmp_path / "x.png"))


def test_modality_then_window_equals_pydicom(tmp_path):
    stored = grey().astype(np.int16) * 8
    dataset = dicom(stored, RescaleSlope="1.5", RescaleIntercept="-1000.5")
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        dataset.WindowCenter, dataset.WindowWidth = "400.5", "900.25"
        dataset.VOILUTFunction = function
        path = save_dicom(dataset, tmp_path / "x.dcm")
        y = apply_voi_lut(stored * 1.5 - 1000.5, dataset)
        low, high = (-32768 * 1.5 - 1000.5), (32767 * 1.5 - 1000.5)
        expected = np.rint((y - low) / (high - low) * 255)
        assert np.abs(read_image(path)[..., 0] - expected).max() <= 1, function


def test_the_first_usable_of_several_windows_is_taken(tmp_path):
    deep = grey().astype(np.uint16) * 8
    one = dicom(deep, WindowCenter="900", WindowWidth="1200")
    first = read_image(save_dicom(one, tmp_path / "a.dcm"))
    many = dicom(deep, WindowCenter=["5", "900", "50"], WindowWidth=["0", "1200", "70"])
    np.testing.assert_array_equal(read_image(save_dicom(many, tmp_path / "b.dcm")), first)


def test_a_window_of_no_width_is_as_none(tmp_path):
    deep = grey().astype(np.uint16) * 8
    plain = read_image(save_dicom(dicom(deep), tmp_path / "a.dcm"))
    zero = dicom(deep, WindowCenter="100", WindowWidth="0")
    np.testing.assert_array_equal(read_image(save_dicom(zero, tmp_path / "b.dcm")), plain)


def test_lut_sequences_of_both_stages_are_looked_up(tmp_path):
    stored = (grey() // 16).astype(np.uint16)  # 0..15
    modality = np.arange(16) * 100 + 50
    voi = np.linspace(0, 1, 1600) ** 2 * 4095
    dataset = dicom(stored, ModalityLUTSequence=[lut(modality, 0, 16)])
    dataset.VOILUTSequence = [lut(voi, 10, 12)]
    expected = np.rint(voi.astype(np.uint16)[modality[stored] - 10] / 4095 * 255)
    array = read_image(save_dicom(dataset, tmp_path / "x.dcm"))
    np.testing.assert_array_equal(array[..., 0], expected)


def test_tables_of_a_big_endian_file_are_read_in_its_byte_order(tmp_path):
    table = (np.arange(256) ** 2 // 16).astype(np.uint16)
    little = dicom(grey(), VOILUTSequence=[lut(table, 0, 12)])
    big = dicom(grey(), syntax=ExplicitVRBigEndian, VOILUTSequence=[lut(table.byteswap(), 0, 12)])
    np.testing.assert_array_equal(
        read_image(save_dicom(big, tmp_path / "b.dcm")),
        read_image(save_dicom(little, tmp_path / "a.dcm")),
    )


def test_samples_kept_in_the_upper_bits_are_shifted_down(tmp_path):
    deep = grey().astype(np.uint16) * 14
    window = {"WindowCenter": "1900", "WindowWidth": "3000"}
    plain = read_image(save_dicom(dicom(deep, bits=12, **window), tmp_path / "a.dcm"))
    upper = dicom(deep << 4, bits=12, HighBit=15, **window)
    np.testing.assert_array_equal(read_image(save_dicom(upper, tmp_path / "b.dcm")), plain)


def test_a_colour_jpeg_shows_the_same_inside_dicom_and_outside(tmp_path):
    picture = Image.fromarray(colour(64, 64))
    for name, subsampling in (("YBR_FULL", 0), ("YBR_FULL_422", 1), ("RGB", 0)):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90, subsampling=subsampling)
        (tmp_path / "x.jpg").write_bytes(buffer.getvalue())
        dataset = dicom(colour(64, 64), model=name, syntax=JPEGBaseline8Bit)
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].VR = "OB"
        array = read_image(save_dicom(dataset, tmp_path / "x.dcm")).astype(int)
        # The header of some files says RGB though the stream is YCbCr, as here: no false colours.
        assert np.abs(array - read_image(tmp_path / "x.jpg")).max() <= 3, name


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("shape", [None, "INVERSE"])
def test_monochrome1_is_inverted_exactly_once(tmp_path, deep, shape):
    values = grey().astype(np.uint16) * 9 if deep else grey()
    tags = {"WindowCenter": "1100", "WindowWidth": "2000"} if deep else {}
    plain = read_image(save_dicom(dicom(values, **tags), tmp_path / "a.dcm"))
    if shape:
        tags["PresentationLUTShape"] = shape
    film = dicom(values, model="MONOCHROME1", **tags)
    np.testing.assert_array_equal(read_image(save_dicom(film, tmp_path / "b.dcm")), 255 - plain)


@pytest.mark.parametrize("model", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_leaves_the_range_alone_and_is_black(tmp_path, model):
    deep = grey().astype(np.int16) * 4
    plain = read_image(save_dicom(dicom(deep, model=model), tmp_path / "a.dcm"))
    padded = np.vstack([deep, np.full((30, 56), -2000, np.int16)])
    dataset = dicom(padded, model=model)
    dataset.add_new("PixelPaddingValue", "US", 63536)  # -2000, written unsigned
    array = read_image(save_dicom(dataset, tmp_path / "b.dcm"))
    np.testing.assert_array_equal(array[:40], plain)
    assert not array[40:].any()
    padded[45:, :] = -1990
    dataset.PixelData = padded.tobytes()
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1980)
    array = read_image(save_dicom(dataset, tmp_path / "c.dcm"))
    np.testing.assert_array_equal(array[:40], plain)
    assert not array[40:].any()


def test_overlay_bits_above_the_stored_ones_do_not_show(tmp_path):
    deep = grey().astype(np.uint16) * 14
    plain = read_image(save_dicom(dicom(deep, bits=12), tmp_path / "a.dcm"))
    burnt = deep | ((grey() > 100).astype(np.uint16) << 14)
    np.testing.assert_array_equal(
        read_image(save_dicom(dicom(burnt, bits=12), tmp_path / "b.dcm")), plain
    )


def test_ybr_and_palette_colour_become_rgb(tmp_path):
    ybr = np.asarray(Image.fromarray(colour()).convert("YCbCr"))
    path = save_dicom(dicom(ybr, model="YBR_FULL"), tmp_path / "x.dcm")
    assert np.abs(read_image(path).astype(int) - colour()).max() <= 3
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50]])
    index = grey() // 64
    dataset = dicom(index, model="PALETTE COLOR")
    for c, name in enumerate(("Red", "Green", "Blue")):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [4, 0, 16])
        raw = (table[:, c] * 257).astype("<u2").tobytes()
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", raw)
    path = save_dicom(dataset, tmp_path / "y.dcm")
    np.testing.assert_array_equal(read_image(path), table[index])


def palette(index: np.ndarray, entries: list[int], bits: int, **tags) -> Dataset:
    """Grey entries, kept in words of 16 bits."""
    dataset = dicom(index, model="PALETTE COLOR", **tags)
    for name in ("Red", "Green", "Blue"):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [len(entries), 0, bits])
        raw = np.array(entries, "<u2").tobytes()
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", raw)
    return dataset


def test_the_depth_of_a_palette_is_that_of_its_whole_table_and_never_of_a_frame(tmp_path):
    index = np.stack([grey() // 128, grey() // 64])  # the first frame has dark entries only
    dataset = palette(index, [0, 200, 40000, 65535], 16, frames=2)
    path = save_dicom(dataset, tmp_path / "x.dcm")
    shown = np.array([0, 0, 156, 255], np.uint8)
    for frame in (0, 1):
        np.testing.assert_array_equal(read_image(path, frame), rgb(shown[index[frame]]))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_8_bit_values_in_16_bit_words_is_shown_as_it_is(tmp_path, bits):
    path = save_dicom(palette(grey() // 64, [0, 60, 200, 255], bits), tmp_path / "x.dcm")
    shown = np.array([0, 60, 200, 255], np.uint8)
    np.testing.assert_array_equal(read_image(path), rgb(shown[grey() // 64]))


def test_frames_are_rows_with_their_own_functional_groups(tmp_path):
    frames = np.stack([grey(seed=s).astype(np.uint16) * 10 for s in range(3)])
    dataset = dicom(frames, frames=3)
    groups = []
    for k in range(3):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = str(1000 + 200 * k), "900"
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    path = save_dicom(dataset, tmp_path / "x.dcm")
    assert [f.frame for f in probe(path)] == [0, 1, 2]
    for k in range(3):
        one = dicom(frames[k], WindowCenter=str(1000 + 200 * k), WindowWidth="900")
        single = read_image(save_dicom(one, tmp_path / "one.dcm"))
        np.testing.assert_array_equal(read_image(path, k), single)
    with pytest.raises(ImageError, match="no frame 3"):
        read_image(path, 3)
