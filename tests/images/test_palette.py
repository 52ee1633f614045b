"""Palette DICOM against a PNG of the same colours: lengths, depths, byte orders, indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_palette_files
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.errors import ImageError
from pipeline.images import read_image
from pipeline.images.dicom import COLOURS
from tests.images.makers import dicom, grey, rgb, save_dicom

PALETTES = "DICOM palettes show the colours of the PNG, or are refused (damaged, segmented)."
SYNTAXES = [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian]


def colours(entries: int, bits: int) -> np.ndarray:
    """(entries, 3): a different colour for each index, as far as the bits allow."""
    i = np.arange(entries)
    table = np.stack([i % 251, i // 251 % 256, 255 - i % 256], axis=1).astype(np.uint16)
    return table if bits == 8 else table * 257


def table_bytes(values: np.ndarray, bits: int, syntax: str) -> bytes:
    """Entries as a writer stores them: two 8-bit entries per word, the first in its low byte."""
    raw = values.astype("<u2" if bits == 16 else np.uint8).tobytes()
    raw += b"\0" * (len(raw) % 2)
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    return np.frombuffer(raw, "<u2").astype(order).tobytes()


def with_tables(
    index: np.ndarray,
    tables: np.ndarray,
    *,
    descriptor: list[int],
    syntax: str = ExplicitVRLittleEndian,
    words: bool = False,
    **tags: object,
) -> Dataset:
    """Palette DICOM.

    Args:
        index: (h, w) integers.
        tables: (n, 3) entries.
        descriptor: entries, first index, bits.
        words: one 8-bit entry per word.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    stored = index.astype(index.dtype.newbyteorder(order))
    dataset = dicom(stored, model="PALETTE COLOR", syntax=syntax, **tags)
    sign = "SS" if index.dtype.kind == "i" else "US"
    for c, colour in enumerate(COLOURS):
        name = f"{colour}PaletteColorLookupTable"
        dataset.add_new(f"{name}Descriptor", sign, descriptor)
        raw = table_bytes(tables[:, c], 16 if words else descriptor[2], syntax)
        dataset.add_new(f"{name}Data", "OW", raw)
    return dataset


def same_as_png(dataset: Dataset, shown: np.ndarray, folder: Path) -> None:
    Image.fromarray(shown.astype(np.uint8)).save(folder / "x.png")
    found = read_image(save_dicom(dataset, folder / "x.dcm"))
    np.testing.assert_array_equal(found, read_image(folder / "x.png"))


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name[:15])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("entries", [1, 2, 5, 255, 256, 257, 300, 1000, 65_535, 65_536])
def test_a_palette_of_any_length_and_depth_shows_its_colours(tmp_path, entries, bits, syntax):
    table = colours(entries, bits)
    index = np.linspace(0, entries - 1, 40 * 56).astype(np.uint16).reshape(40, 56)
    dataset = with_tables(index, table, descriptor=[entries % 2**16, 0, bits], syntax=syntax)
    same_as_png(dataset, colours(entries, 8)[index], tmp_path)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("first", [-300, -1, 0, 7, 500])
@pytest.mark.parametrize("entries", [5, 300])
def test_indices_outside_the_table_are_clipped(tmp_path, entries, first):
    index = np.arange(-1120, 1120, dtype=np.int16).reshape(40, 56)
    dataset = with_tables(index, colours(entries, 8), descriptor=[entries, first, 8])
    shown = colours(entries, 8)[np.clip(index.astype(int) - first, 0, entries - 1)]
    same_as_png(dataset, shown, tmp_path)


def test_a_first_index_above_32767_is_not_negative(tmp_path):
    index = np.arange(39_000, 39_000 + 2240, dtype=np.uint16).reshape(40, 56)
    dataset = with_tables(index, colours(300, 8), descriptor=[300, 40_000, 8])
    shown = colours(300, 8)[np.clip(index.astype(int) - 40_000, 0, 299)]
    same_as_png(dataset, shown, tmp_path)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("entries", [5, 300])
def test_8_bit_entries_in_16_bit_words(tmp_path, entries, bits):
    index = (np.arange(2240) % entries).astype(np.uint16).reshape(40, 56)
    table = colours(entries, 8)
    dataset = with_tables(index, table, descriptor=[entries, 0, bits], words=True)
    same_as_png(dataset, table[index], tmp_path)


@pytest.mark.promise(PALETTES)
def test_the_depth_of_a_palette_is_that_of_the_table_not_of_a_frame(tmp_path):
    index = np.stack([grey() // 128, grey() // 64])  # the first frame uses dark entries only
    table = rgb(np.array([[0, 200, 40000, 65535]]))[0]
    path = save_dicom(with_tables(index, table, descriptor=[4, 0, 16], frames=2), tmp_path / "x")
    for frame in (0, 1):
        expected = (table >> 8).astype(np.uint8)[index[frame]]
        np.testing.assert_array_equal(read_image(path, frame), expected)


def test_unused_bits_are_ignored(tmp_path):
    index = (np.arange(2240) % 300).astype(np.uint16).reshape(40, 56)
    noisy = index | np.uint16(0xE000)
    dataset = with_tables(noisy, colours(300, 8), descriptor=[300, 0, 8], bits=12)
    same_as_png(dataset, colours(300, 8)[index], tmp_path)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("path", get_palette_files("*.dcm"), ids=lambda path: Path(path).stem)
def test_the_palettes_of_the_standard_are_shown_as_by_pydicom_or_refused_if_segmented(
    tmp_path, path
):
    standard = dcmread(path)
    index = (np.arange(2240) % 256).astype(np.uint8).reshape(40, 56)
    dataset = dicom(index, model="PALETTE COLOR")
    dataset.update({e.tag: e for e in standard if "Palette" in e.keyword and e.VR in ("US", "OW")})
    if "SegmentedRedPaletteColorLookupTableData" in standard:
        with pytest.raises(ImageError, match="segmented"):
            read_image(save_dicom(dataset, tmp_path / "x.dcm"))
    else:
        same_as_png(dataset, apply_color_lut(index, standard)[..., :3], tmp_path)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("descriptor", [[300, 0, 8], [0, 0, 8], [256, 0, 16], [256, 0, 12]])
def test_a_table_shorter_than_its_descriptor_is_refused(tmp_path, descriptor):
    table = colours(200, 8)
    dataset = with_tables(np.zeros((40, 56), np.uint8), table, descriptor=descriptor, words=False)
    for colour in COLOURS:
        dataset[f"{colour}PaletteColorLookupTableData"].value = table_bytes(table[:, 0], 8, "")
    with pytest.raises(ImageError, match="palette"):
        read_image(save_dicom(dataset, tmp_path / "x.dcm"))
