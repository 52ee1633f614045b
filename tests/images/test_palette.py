"""Palette DICOM against a PNG of the same colours: lengths, depths, byte orders, indices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_palette_files
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.errors import ImageError
from pipeline.images import read_image
from pipeline.images.dicom import COLOURS, PALETTE
from tests.images.makers import dicom, grey, rgb, save_dicom

PALETTES = "DICOM palettes show the colours of the PNG, or are refused (damaged, segmented)."
SYNTAXES = [ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian]


def colours(entries: int, bits: int = 8) -> np.ndarray:
    """(entries, 3): a different colour for each index, as far as the bits allow."""
    i = np.arange(entries)
    table = np.stack([i % 251, i // 251 % 256, 255 - i % 256], axis=1).astype(np.uint16)
    return table if bits == 8 else table * 257


def with_tables(
    index: np.ndarray,
    tables: np.ndarray,
    descriptor: list[int],
    *,
    syntax: str = ExplicitVRLittleEndian,
    words: bool = False,
    **tags: object,
) -> Dataset:
    """Palette DICOM.

    Args:
        index: (h, w) integers.
        tables: (n, 3) entries; two of 8 bits are stored per word, the first in its low byte.
        descriptor: entries, first index, bits.
        words: one 8-bit entry per word.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    stored = index.astype(index.dtype.newbyteorder(order))
    dataset = dicom(stored, model="PALETTE COLOR", syntax=syntax, **tags)
    for c, colour in enumerate(COLOURS):
        sign = "SS" if index.dtype.kind == "i" else "US"
        dataset.add_new(f"{colour}{PALETTE}Descriptor", sign, descriptor)
        raw = tables[:, c].astype("<u2" if words or descriptor[2] == 16 else np.uint8).tobytes()
        raw = np.frombuffer(raw + b"\0" * (len(raw) % 2), "<u2").astype(f"{order}u2").tobytes()
        dataset.add_new(f"{colour}{PALETTE}Data", "OW", raw)
    return dataset


def shows(dataset: Dataset, shown: np.ndarray, folder: Path) -> None:
    found = read_image(save_dicom(dataset, folder / "x.dcm"))
    np.testing.assert_array_equal(found, shown.astype(np.uint8))


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name[:15])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_any_length_and_depth_shows_its_colours(tmp_path, bits, syntax):
    for entries in (1, 2, 5, 255, 256, 257, 65_535, 65_536):
        index = np.linspace(0, entries - 1, 40 * 56).astype(np.uint16).reshape(40, 56)
        descriptor = [entries % 2**16, 0, bits]
        dataset = with_tables(index, colours(entries, bits), descriptor, syntax=syntax)
        shows(dataset, colours(entries)[index], tmp_path)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("first", [-300, -1, 0, 7, 500, 40_000])
@pytest.mark.parametrize("entries", [5, 300])
def test_indices_outside_the_table_are_clipped(tmp_path, entries, first):
    start, kind = (39_000, np.uint16) if first == 40_000 else (-1120, np.int16)
    index = np.arange(start, start + 2240).astype(kind).reshape(40, 56)
    dataset = with_tables(index, colours(entries), [entries, first, 8])
    shows(dataset, colours(entries)[np.clip(index.astype(int) - first, 0, entries - 1)], tmp_path)


@pytest.mark.promise(PALETTES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("entries", [5, 300])
def test_8_bit_entries_in_16_bit_words_and_unused_bits_of_the_index(tmp_path, entries, bits):
    index = (np.arange(2240) % entries).astype(np.uint16).reshape(40, 56)
    noisy = index | np.uint16(0xE000)
    dataset = with_tables(noisy, colours(entries), [entries, 0, bits], words=True, bits=12)
    shows(dataset, colours(entries)[index], tmp_path)


@pytest.mark.promise(PALETTES)
def test_the_depth_of_a_palette_is_that_of_the_table_not_of_a_frame(tmp_path):
    index = np.stack([grey() // 128, grey() // 64])  # the first frame uses dark entries only
    table = rgb(np.array([[0, 200, 40000, 65535]]))[0]
    path = save_dicom(with_tables(index, table, [4, 0, 16], frames=2), tmp_path / "x")
    for frame in (0, 1):
        expected = (table >> 8).astype(np.uint8)[index[frame]]
        np.testing.assert_array_equal(read_image(path, frame), expected)


@pytest.mark.promise(PALETTES)
def test_the_palettes_of_the_standard_are_shown_as_by_pydicom_or_refused(tmp_path):
    index = (np.arange(2240) % 256).astype(np.uint8).reshape(40, 56)
    for path in get_palette_files("*.dcm"):
        standard = dcmread(path)
        dataset = dicom(index, model="PALETTE COLOR")
        tables = {e.tag: e for e in standard if "Palette" in e.keyword and e.VR in ("US", "OW")}
        dataset.update(tables)
        if "SegmentedRedPaletteColorLookupTableData" in standard:
            with pytest.raises(ImageError, match="segmented"):
                read_image(save_dicom(dataset, tmp_path / "x.dcm"))
        else:
            shows(dataset, apply_color_lut(index, standard)[..., :3], tmp_path)
    for descriptor in ([300, 0, 8], [0, 0, 8], [256, 0, 16], [256, 0, 12]):  # tables of 200
        dataset = with_tables(index, colours(200), descriptor)
        for colour in COLOURS:
            dataset[f"{colour}{PALETTE}Data"].value = bytes(200)
        with pytest.raises(ImageError, match="palette"):
            read_image(save_dicom(dataset, tmp_path / "x.dcm"))
