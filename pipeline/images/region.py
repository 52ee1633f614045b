"""Samples of a ground-truth file to its region: which values are inside.

The threshold is decided by the levels of the entire file, never by the maximum of one frame: an
almost empty slice of a volume has the same threshold as its neighbours. A file that can be read in
two ways is refused with both, until a user says which one is meant (`MaskRule`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from pipeline.errors import ConfigError, ImageError
from pipeline.images.formats import Pixels
from pipeline.images.normalise import finite, on_black, select

HALF = 127  # threshold of 8-bit masks
RIM_WIDTH = 7  # samples; a rim is narrower everywhere, and a region is not
RIM_SHARE = 0.8  # of the samples of a rim that are so near to black, and to another colour
NEAR = 33  # samples around a bright one that may be dark grey by lossy coding (two blocks of 16)
FEW = 16  # levels of a label map, at most, unless they fill areas or number its objects
MIDDLE = 1 / 8  # of the highest level; levels nearer to black or white may be coding noise
LABEL_SHARE = 0.5  # of the levels between that fill 3 x 3 samples: labels, not a smooth edge
ABRUPT_SHARE = 0.1  # of the samples between that end abruptly; smooth edges have none
PICTURE_SHARE = 1 / 3  # of the samples that are between black and white: a picture, not a mask
NOISE = 24  # levels between neighbours that lossy coding adds to an even area
EVEN_SHARE = 0.001  # of the samples, in even areas between black and white: a third level,
EVEN = 1 / 8  # if they are this share of those between; in smooth edges they are fewer
TOPS = (255, 65535)  # often "ignore" next to label numbers, which are
STEP = 8  # at most so far apart on average
NUMBER = r"(?:-?\d+(?:\.\d+)?|#[0-9a-fA-F]{6})"
# What is doubtful, and the options that decide it.
CHOOSE = "name the values of the region with --mask-values"
UNCLEAR = (
    "has neither labels nor a mask with smooth edges nor probabilities up to 1",
    f"save it with 0 outside and 255 (or 1) inside the region, or {CHOOSE}",
)
LOW = ("is in a lossy format with values up to {} only: a region of that value, or none", CHOOSE)
THIRD = (
    "is in a lossy format with a third level between black and white: a region too, or not",
    f"{CHOOSE}, such as 255 or 128,255; or save it as PNG",
)
PICTURE = ("is a picture or an overlay, not a mask: most of it is neither black nor white", CHOOSE)
COLOURS = (
    "has colours but no black ground ({})",
    f"{CHOOSE} '#rrggbb', or say with --mask-invert that its ground is white",
)
RIM = (
    "has the colour {} only as a thin rim between another and the black ground: to be ignored, or "
    "a region",
    "say --mask-ignore '{0}' if it is to be ignored, or name all values of the region with "
    "--mask-values",
)
HALVES = (
    "has areas of exactly 0.5 beside 0 and 1: a label of their own, or probabilities that are not "
    "above one half",
    f"{CHOOSE}, such as 0.5,1 or 1",
)
GROUND = ("has the values {} but no 0: which of them is the ground is not known", CHOOSE)
IGNORED = (
    "has the value {} next to the labels {}: to be ignored, or a region",
    "say --mask-ignore {0} if it is to be ignored, or name all values of the region with "
    "--mask-values",
)
PALETTE = (
    "has a palette that does not begin with black, though black is used: its ground is the first "
    "colour, or black",
    f"{CHOOSE} (numbers of the palette, or colours '#rrggbb')",
)

Frames = Callable[[], Iterable[Pixels]]
Samples = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]  # and which of them count


class Ambiguous(ImageError):
    """A mask that can be read in more than one way; the remedy names the options that choose."""


@dataclass(frozen=True)
class MaskRule:
    """What a user says of the values of masks: the words of the manifest's column `mask_rule`.

    Attributes:
        values: those of the region: numbers as stored (in a palette image the index; in a colour
            image a grey level), or colours "#rrggbb". () = decided by the file.
        ignore: values that are outside whatever the others are, such as a rim of 255.
        invert: the ground is white, and everything darker is the region.
        resize: a mask of another size or grid is resampled by its nearest samples.
    """

    values: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    invert: bool = False
    resize: bool = False

    @classmethod
    def parse(cls, text: str) -> MaskRule:
        """Read e.g. "values=1,2 ignore=255 resize"; ConfigError for anything else."""
        given: dict = {}
        for word in text.split():
            name, _, values = word.partition("=")
            if word in ("invert", "resize"):
                given[word] = True
            elif name in ("values", "ignore") and re.fullmatch(f"{NUMBER}(,{NUMBER})*", values):
                given[name] = tuple(values.split(","))
            else:
                remedy = "write numbers or colours with commas between, such as 1,2 or '#ff0000'"
                raise ConfigError(f"{word!r} does not say how masks are read", remedy=remedy)
        return cls(**given)


@dataclass(frozen=True)
class Region:
    """How the samples of one file become a region; from `find_region`.

    Attributes:
        rule: what the user says.
        look: which samples decide: "grey" (the brightest channel, as displayed), "white" (`top`
            minus the darkest channel), "alpha", or "index" (of the palette).
        top: the maximum of the file, from which deep inverted samples are subtracted.
        threshold: samples above it are inside.
        doubt: what is doubtful and the remedy, if no threshold is certain.
    """

    rule: MaskRule = MaskRule()
    look: str = "grey"
    top: float = 0.0
    threshold: float = 0.0
    doubt: tuple[str, str] | None = None

    def of(self, pixels: Pixels) -> np.ndarray:
        """Return the region of one frame, bool (h, w); Ambiguous if there is no certain one."""
        if self.doubt:
            raise Ambiguous(self.doubt[0], remedy=self.doubt[1])
        if self.rule.values:
            inside = _named(pixels, self.rule.values, self.rule)
        else:
            inside = self.samples(pixels) > self.threshold
        return inside & self.counted(pixels)

    def samples(self, pixels: Pixels) -> np.ndarray:
        """Return the (h, w) samples of a frame that are compared with the threshold."""
        if self.look == "index":
            return pixels.index
        if self.look == "alpha":
            return _opacity(pixels)
        values, white = pixels.values, self.look == "white"
        if values.ndim == 3:
            values = values.min(axis=2) if white else values.max(axis=2)
        if values.dtype.kind == "f":
            values = np.nan_to_num(values, nan=0.0)
        if pixels.invert:
            values = np.uint8(255) - values if pixels.display else self.top - values
        values = on_black(values, pixels.alpha)
        return self.top - values if white else values

    def counted(self, pixels: Pixels) -> np.ndarray:
        """Return which pixels are valid and not ignored, bool (h, w)."""
        valid = None if self.look == "alpha" else finite(pixels)
        kept = np.ones(pixels.values.shape[:2], bool) if valid is None else valid
        return kept & ~_named(pixels, self.rule.ignore, self.rule) if self.rule.ignore else kept


def find_region(frames: Frames, rule: MaskRule = MaskRule()) -> Region:
    """Find which samples belong to the region, for all frames of a file.

    Fractions that round to 0 or 1 are probabilities, with threshold 0.5. Of two levels the higher
    one is the region. More integer levels are labels if they fill areas, border on black, or are
    few and low: then everything but zero is the region. Otherwise they are the edges of a smooth
    mask, with threshold 127, or half of the file's maximum if that is above 255. JPEG and WebP
    always have the threshold 127, because of coding noise. In a palette image everything but black
    is the region, or but the first colour if black is not used. An image that is black throughout
    and of varying opacity is the region where it is opaque.

    What can be read in two ways has a `doubt`: label numbers next to 255, which may mean "ignore";
    labels or colours without a ground, or with a high one; a thin rim of a colour around others;
    areas of exactly one half; dark or even grey levels in a lossy file; pictures.

    `frames` returns the frames, each time it is called.
    """
    first = next(iter(frames()), None)
    if first is None or rule.values:
        return Region(rule)
    plain = Region(rule)
    if first.invert and not first.display:
        deep = (select(p.values, finite(p)).max(initial=0) for p in frames())
        plain = replace(plain, top=float(max(deep)))
    if rule.invert:
        high = max(float(select(plain.samples(p), finite(p)).max(initial=0)) for p in frames())
        top = max(high, 1.0) if high <= FEW else max(high, 255.0)  # label numbers have no 255
        plain = replace(plain, look="white", top=top)
    elif first.index is not None:
        return _of_palette(frames, plain)
    elif _is_hidden(frames, plain):
        plain = replace(plain, look="alpha")
    elif first.threshold != "half" and (colours := _colours(frames)) and 0 not in colours:
        shown = ", ".join(f"#{colour:06x}" for colour in sorted(colours)[:4])
        return replace(plain, doubt=(COLOURS[0].format(shown), COLOURS[1]))
    elif not (rule.ignore or first.threshold == "half") and (rim := _rim(frames, colours)):
        return replace(plain, doubt=tuple(part.format(f"#{rim:06x}") for part in RIM))

    def samples() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((plain.samples(pixels), plain.counted(pixels)) for pixels in frames())

    lossy = first.threshold == "half" and plain.look != "alpha"
    found = _lossy_threshold(samples) if lossy else _threshold(samples)
    return replace(
        plain, **({"threshold": found} if isinstance(found, float) else {"doubt": found})
    )


def _threshold(samples: Samples) -> float | tuple[str, str]:
    """Return the threshold of lossless samples, or what is doubtful and the remedy."""
    levels, whole = np.empty(0), True
    for values, counted in samples():
        unique = np.unique(select(values, counted))
        if unique.dtype.kind == "f" and not (unique == np.rint(unique)).all():
            whole = False
            unique = np.concatenate([unique[:FEW], unique[-1:]])  # there may be millions
        levels = np.union1d(levels, unique.astype(float))
    if not levels.size:
        return 0.0
    low, high = float(levels[0]), float(levels[-1])
    if len(levels) == 2 and low > 0 and _is_ground(samples, high):
        return GROUND[0].format(f"{low:g}, {high:g}"), GROUND[1]
    if len(levels) == 2 and (whole or low == 0):
        return low  # also 0 and 0.5, or 0 and 1/255 by the slope of a NIfTI file
    if not whole and 0.5 in levels and high == 1 and len(levels) <= FEW and _fills(samples, 0.5):
        return HALVES
    if not whole and low >= -0.5 and high < 1.5:
        return UNCLEAR if 0 < high <= 0.5 and 2 < len(levels) <= FEW else 0.5
    if len(levels) <= 2:
        return low if len(levels) == 2 else 0.0
    if not whole:
        return float(HALF) if low >= 0 and HALF < high <= 255 else UNCLEAR
    between, flat, abrupt, lit = _shares(samples, levels)
    few, numbered = len(levels) <= FEW, (levels > 0).sum() >= high / 2 and high not in TOPS
    if between == 0:  # coding noise is near both ends
        light = (levels >= (1 - MIDDLE) * high).sum()
        dark = ((levels > 0) & (levels <= MIDDLE * high)).any()
        if dark and light > 1 and few and 255 - NOISE <= high < 255:
            return UNCLEAR  # label numbers, or noise near black and white
        labels = dark and (light == 1 or (few and high not in TOPS))
    else:
        labels = flat >= LABEL_SHARE
    if labels or (few and high <= HALF):
        return _label_threshold(levels)
    if between > PICTURE_SHARE and high > HALF:
        return PICTURE
    if abrupt >= ABRUPT_SHARE and (few or numbered):
        if not few and lit > 0.5:
            return PICTURE
        return _label_threshold(levels)
    if abrupt >= ABRUPT_SHARE or high <= HALF:
        return UNCLEAR
    return float(HALF) if high <= 255 else high / 2


def _fills(samples: Samples, level: float) -> bool:
    """Return whether a level fills 3 x 3 samples somewhere."""
    return any((maximum_filter(v != level, 3) == 0).any() for v, _ in samples())


def _is_ground(samples: Samples, level: float) -> bool:
    """Return whether most of the outermost samples of the frames are of a level."""
    border = [np.concatenate([v[0], v[-1], v[:, 0], v[:, -1]]) == level for v, _ in samples()]
    return bool(np.concatenate(border).mean() > 0.5)


def _rim(frames: Frames, colours: set[int]) -> int:
    """Return the one of several colours that is nowhere wide and, where it is, next to both black
    and a colour that is wide somewhere; 0 = none. Such a rim may be drawn around regions for what
    is to be ignored."""
    thin, counts = set(colours) - {0}, np.zeros(3)
    for pixels in frames() if len(colours) > 2 else ():
        codes = _packed(pixels.values)
        even = maximum_filter(codes, RIM_WIDTH) == minimum_filter(codes, RIM_WIDTH)
        thin -= {*np.unique(codes[even]).tolist()}
    for pixels in frames() if len(thin) == 1 and len(colours) > 2 else ():
        codes = _packed(pixels.values)
        rim, black = np.isin(codes, [*thin]), codes == 0
        near = [maximum_filter(other, RIM_WIDTH) & rim for other in (black, ~black & ~rim)]
        counts += [part.sum() for part in (rim, *near)]
    return thin.pop() if counts[0] and counts.min() >= RIM_SHARE * counts[0] else 0


def _label_threshold(levels: np.ndarray) -> float | tuple[str, str]:
    """Return 0, everything but the ground, if there is a ground and nothing to ignore."""
    high, others = levels[-1], levels[(levels > 0) & (levels < levels[-1])]

    def text(values: Sequence[float]) -> str:
        return ", ".join(f"{v:g}" for v in values[:5]) + (", ..." if len(values) > 5 else "")

    if levels[0] > 0:
        return GROUND[0].format(text(levels)), GROUND[1]
    numbers = others.size and others[-1] <= max(MIDDLE * 255, STEP * others.size)
    if high in TOPS and numbers and others[-1] < high - 1:
        return tuple(part.format(f"{high:g}", text(others)) for part in IGNORED)
    return 0.0


def _shares(samples: Samples, levels: np.ndarray) -> tuple[float, float, float, float]:
    """Return the share of the samples that are between black and white; the share of their levels
    that fill 3 x 3 samples somewhere; the share of them that are next to black without notably
    brighter neighbours, where a region ends abruptly (smooth edges have neither); and the share of
    all samples that are not black."""
    high, every, middle, ends, lit = levels[-1], 0, 0, 0, 0
    found, flat = set(), set()
    for values, counted in samples():
        values = values.astype(np.float64)
        between = (values > MIDDLE * high) & (values < (1 - MIDDLE) * high) & counted
        every += int(counted.sum())
        middle += int(between.sum())
        lit += int(((values > 0) & counted).sum())
        bright, dark = maximum_filter(values, 3), minimum_filter(values, 3)
        found.update(np.unique(values[between]).tolist())
        same = between & (bright == dark)
        flat.update(np.unique(values[1:-1, 1:-1][same[1:-1, 1:-1]]).tolist())
        ends += int((between & (dark <= 0) & (bright <= values + MIDDLE * high)).sum())
    return middle / every, len(flat) / max(1, len(found)), ends / max(1, middle), lit / every


def _lossy_threshold(samples: Samples) -> float | tuple[str, str]:
    """Return the threshold of a JPEG or WebP, or what is doubtful and the remedy."""
    high = max(int(select(*pair).max(initial=0)) for pair in samples())
    if 0 < high <= HALF:
        return LOW[0].format(high), LOW[1]
    for values, counted in samples():
        between = (values > MIDDLE * 255) & (values < (1 - MIDDLE) * 255) & counted
        far = maximum_filter(values, NEAR) <= HALF  # from all that is bright
        if ((values > NOISE / 2) & far).mean() > EVEN_SHARE * 10:
            return PICTURE
        even = maximum_filter(values, 3).astype(int) - minimum_filter(values, 3) <= NOISE
        even_share = (between & even).mean()
        if between.mean() > PICTURE_SHARE:
            return PICTURE
        if even_share > max(EVEN_SHARE, between.mean() * EVEN):
            return THIRD
    return float(HALF)


def _of_palette(frames: Frames, plain: Region) -> Region:
    """Return everything but black, or but the first colour of the palette where black is unused."""
    used: dict[int, bool] = {}  # index -> whether it is black
    for pixels in frames():
        counted = plain.counted(pixels)
        indices, at = np.unique(select(pixels.index, counted), return_index=True)
        black = (select(pixels.values, counted).reshape(-1, 3)[at] == 0).all(axis=1)
        used |= dict(zip(indices.tolist(), black.tolist(), strict=True))
    if not used.get(0, True) and any(used.values()):
        return replace(plain, doubt=PALETTE)
    if 0 in used and len(used) <= FEW:  # numbers of labels, with 255 for what is to be ignored
        found = _label_threshold(np.array(sorted(used)))
        plain = plain if isinstance(found, float) else replace(plain, doubt=found)
    # Without black, or where a palette that was never set is black throughout.
    by_number = not used.get(0, True) or (len(used) > 1 and all(used.values()))
    return replace(plain, look="index") if by_number else plain


def _opacity(pixels: Pixels) -> np.ndarray | None:
    """Return the opacity as uint8 (h, w), whether it was applied already or not; None if opaque."""
    if pixels.alpha is not None:
        return np.rint(pixels.alpha * 255).astype(np.uint8)
    return pixels.opacity


def _is_hidden(frames: Frames, plain: Region) -> bool:
    """Return whether all is black, and of varying opacity."""
    opacity: set[int] = set()
    for pixels in frames():
        if (seen := _opacity(pixels)) is None or plain.samples(pixels).any():
            return False
        opacity.update(np.unique(seen).tolist())
    return len(opacity) > 1


def _packed(values: np.ndarray) -> np.ndarray:
    """Return 8-bit (h, w) or (h, w, 3) samples as numbers 0xrrggbb."""
    values = values.astype(np.int64)
    return values * 0x10101 if values.ndim == 2 else values @ np.array([2**16, 2**8, 1])


def _colours(frames: Frames) -> set[int]:
    """Return the colours of a file of 8 bits, as 0xrrggbb, if some are not grey and they are few;
    else nothing."""
    found: set[int] = set()
    for pixels in frames():
        if pixels.values.ndim == 2 or pixels.values.dtype != np.uint8:
            return set()
        found.update(np.unique(_packed(pixels.values)).tolist())
        if len(found) > FEW:
            return set()
    return found if len(found) > 1 and any(colour % 0x10101 for colour in found) else set()


def _named(pixels: Pixels, words: Sequence[str], rule: MaskRule) -> np.ndarray:
    """Return where the samples are one of the values that a user names, bool (h, w). In a lossy
    file a sample counts as the nearest of black, white and all the values that are named."""
    values = pixels.values
    if pixels.invert and pixels.display:
        values = np.uint8(255) - values
    wanted = [float(word) for word in words if word[0] != "#"]
    if pixels.threshold == "half":
        triples = [_triple(word) for word in (*rule.values, *rule.ignore)]
        every = np.array([(0, 0, 0), (255, 255, 255), *triples])
        wanted = (every[:, None] == [_triple(word) for word in words]).all(-1).any(-1)
        samples = np.broadcast_to(values.reshape(*values.shape[:2], -1), (*values.shape[:2], 3))
        if values.ndim == 2 and (every == every[:, :1]).all():
            samples, every = samples[..., :1], every[:, :1]
        samples, every = samples.astype(np.int16), every.clip(-255, 510).astype(np.int16)
        far = [np.abs(samples - one).sum(axis=2, dtype=np.int16) for one in every]
        return wanted[np.argmin(far, axis=0)]
    numbers = values if pixels.index is None else pixels.index
    inside = np.isin(numbers, wanted)
    if numbers.ndim == 3:
        inside = inside.all(axis=2) & (numbers == numbers[..., :1]).all(axis=2)
    if codes := [int(word[1:], 16) for word in words if word[0] == "#"]:
        inside = inside | np.isin(_packed(values), codes)
    return inside


def _triple(word: str) -> tuple[int, int, int]:
    """Return the colour of a number or "#rrggbb" as red, green and blue."""
    code = int(word[1:], 16) if word[0] == "#" else int(float(word)) * 0x10101
    return code >> 16, code >> 8 & 255, code & 255
