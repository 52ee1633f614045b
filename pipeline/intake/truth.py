"""Which pictures of a folder are ground truth, and of which images.

The signs: a picture whose stem extends another's by a word of `WORDS` (`x_mask_1`, `mask_x`); a
folder named by such a word whose files pair with those next to it; and pictures of few values,
which decide where names leave a doubt.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.errors import ManifestError, PipelineError, printable, shown
from pipeline.images import has_image_suffix, read_image

_SINGULAR = {"mask", "segmentation", "label", "annotation", "lesion", "roi", "contour", "gt"}
_SINGULAR |= {"groundtruth", "labelmap"}
_OTHERS = {"msk", "seg", "segm", "annot", "manual"}
WORDS = {*_SINGULAR, *(f"{word}s" for word in _SINGULAR), *_OTHERS}
CLASS_WORDS = {"lesion", "lesions"}  # alone or as the name of a folder, not ground truth
READERS = {"reader", "rater", "observer", "annotator", "grader", "expert", "radiologist"}
IMAGE_WORDS = {"image", "images", "img", "imgs", "original", "originals", "picture", "pictures"}
_ANY = f"(?i:{'|'.join(sorted(WORDS - CLASS_WORDS, key=len, reverse=True))})"
# The image of a mask in another folder: `x` of `x_mask`, `x_mask_left`, `mask_x`, `x_1`, `x_left`.
_IMAGE_OF = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?P<x>.*?)(?:^|[ _.-]+){_ANY}(?:[ _.-]?\d+|[ _-][A-Za-z]+)?(?: ?\(\d+\))?",
        rf"{_ANY}[ _.-]+(?P<x>.+)",
        r"(?P<x>.+)[ _-][^ _-]+",
    )
)
FEW_IMAGES = 8  # `mask.png` is the mask of all other images of its folder, if they are so few
PAIRED = 0.5  # of the files of a folder named like ground truth must belong to an image
SAMPLE = 5  # pictures of a folder that are read
FEW_VALUES = 8  # of a label map; else `TWO` of the pixels are nearly black or nearly white
TWO = 0.95
NOT_READ = (".nii", ".nii.gz", ".dcm")  # volumes, too slow to read for this
NONE = "or --masks none if all are images"


@lru_cache(2**18)
def stem(path: str) -> str:
    """Return a relative path without its image suffix (other dots stay)."""
    pure = PurePosixPath(path)
    if not has_image_suffix(pure.name):
        return path
    name = pure.name[:-7] if pure.name.lower().endswith(".nii.gz") else pure.stem
    return (pure.parent / name).as_posix()


def words(name: str) -> list[str]:
    """Return the words and numbers of a name in lower case: `leftMask_2` -> left, mask, 2."""
    name = re.sub("(?i)ground[ _-]*truth", "Groundtruth", name)
    return [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]


@dataclass
class Truth:
    """The masks among some files, as POSIX paths."""

    owners: dict[str, list[str]] = field(default_factory=dict)  # mask -> its images
    kinds: dict[str, str] = field(default_factory=dict)  # mask -> what it shows
    folders: dict[str, int] = field(default_factory=dict)  # folder of masks -> files in it
    sides: set[str] = field(default_factory=set)  # folders that hold the images of such a folder
    spare: list[str] = field(default_factory=list)  # files of such folders that fit no image
    lone: list[str] = field(default_factory=list)  # images named like a mask of no image
    derived: dict[str, list[str]] = field(default_factory=dict)  # word -> images `x_word` of `x`

    def add(self, mask: str, images: list[str], rest: str) -> None:
        """Enter a mask; `rest` is what its name has besides that of its image."""
        self.owners[mask] = images
        found = words(rest)
        kind = " ".join(w for w in found if not w.isdigit() or READERS & {*found})
        self.kinds[mask] = f"{PurePosixPath(mask).parent}/{kind}"

    def reasons(self) -> Counter[str]:
        """Return why files are no images -> their number."""
        counts = Counter({"file among masks that fits no image": len(self.spare)})
        for mask, images in self.owners.items():
            near = PurePosixPath(mask).parent == PurePosixPath(images[0]).parent
            where = "next to its image" if near else "in a folder of masks"
            counts[f"ground-truth mask {where}"] += 1
        return +counts

    def warnings(self) -> list[str]:
        """Return what is said of images that may be none."""
        said = [
            f"{len(found)} images are named {word!r} after another one: {shown(found)}; move them "
            f"away if they are made from it, or pass --mask-name '*{word}*' if they are masks"
            for word, found in self.derived.items()
        ]
        if self.lone:
            said.append(
                f"{len(self.lone)} images are named like masks, but there is no image of that name "
                f"in the same folder: {shown(self.lone)}; if they are masks, move them to a folder "
                "of their own (--masks)"
            )
        return said

    def pairs(self, chosen: str = "") -> tuple[dict[str, list[str]], list[str]]:
        """Return image -> its masks; and the images for which it is unclear.

        Several masks of one image are united if they are of one kind (`x_mask_1`, `x_mask_2`), or
        if they match the glob `chosen`, which leaves the others out. Among files that share a stem
        only a mask of the very name of the image is taken.

        Raises ManifestError where the masks of an image are of several kinds.
        """
        near: dict[str, list[str]] = defaultdict(list)
        for mask, images in sorted(self.owners.items()):
            for image in images:
                near[image] += [mask] * (not chosen or fnmatchcase(mask, chosen))
        kinds = {image: {self.kinds[mask] for mask in masks} for image, masks in near.items()}
        if several := [image for image in kinds if len(kinds[image]) > 1 and not chosen]:
            listed = ", ".join(map(printable, near[several[0]]))
            raise ManifestError(
                f"{len(several)} images have masks of several kinds, e.g. "
                f"{printable(several[0])}: {listed}",
                remedy="choose by their path with --mask-name (e.g. '*left*'), or unite all with "
                "--mask-name '*'",
            )
        sharing, found, unclear = Counter(map(stem, near)), {}, []
        for image, masks in near.items():
            if sharing[stem(image)] > 1 or len(set(map(stem, masks))) < len(masks):
                name = PurePosixPath(image).name
                same = [mask for mask in masks if PurePosixPath(mask).name == name]
                unclear += [image] * (len(same) != 1 and bool(masks))
                masks = same if len(same) == 1 else []
            if masks:
                found[image] = masks
        return found, sorted(unclear)


class Images:
    """Images by the ends of their paths below a folder, to find those of masks elsewhere."""

    def __init__(self, paths: Iterable[str], top: str = "") -> None:
        self.full: dict[str, list[str]] = defaultdict(list)
        self.ends: dict[str, set[str]] = defaultdict(set)  # end of a path -> stems
        self.starts: dict[str, set[str]] = defaultdict(set)  # the same without the last word
        for path in paths:
            self.full[stem(path).removeprefix(f"{top}/")].append(path)
        first = _first_word([key.rpartition("/")[2] for key in self.full])
        for key in self.full:
            for at in [0, *(match.end() for match in re.finditer("/", key))]:
                self.ends[key[at:]].add(key)
                self.ends[first.sub(r"\1", key[at:])].add(key)  # `img_7`: `mask_7` is of 7
                if match := _IMAGE_OF[-1].fullmatch(key[at:]):
                    self.starts[match["x"]].add(key)

    def of(self, mask: str) -> tuple[list[str], str]:
        """Return the images of a mask, given as its stem below a folder like that of the images;
        and what its name has besides theirs. Only one image can be meant by the end of its path,
        but one mask is that of all images `x_0000`, `x_0001` of its name."""
        if len(self.full) == 1:
            return next(iter(self.full.values())), ""
        folder, _, name = mask.rpartition("/")
        folder += "/" * bool(folder)
        found = [match["x"] for pattern in _IMAGE_OF if (match := pattern.fullmatch(name))]
        names = list(dict.fromkeys([name, *filter(None, found)]))
        for place in (folder, ""):
            for one in names:
                if place + one in self.full:
                    return self.full[place + one], name.replace(one, "", 1)
                if len(keys := self.ends[place + one]) == 1:
                    return self.full[next(iter(keys))], name.replace(one, "", 1)
            for one in names:
                keys = self.starts[place + one]
                if len(keys) == 1 or (keys and one == name):  # sorted here only: it may be all
                    return [path for key in sorted(keys) for path in self.full[key]], ""
        return [], ""


def find_truth(
    paths: list[str], locate: Callable[[str], Path], *, chosen: str = "", told: bool = False
) -> Truth:
    """Find the masks among image files.

    Args:
        paths: POSIX paths; `locate` returns the file of one.
        chosen: a glob; what matches it is a mask too, unless everything does.
        told: the masks of the images are known from elsewhere.

    Raises ManifestError where files are masks by one sign and images by another.
    """
    named = {path for path in paths if chosen and fnmatchcase(path, chosen)}
    named = set() if len(named) == len(paths) else named
    truth, folders = Truth(), defaultdict(lambda: defaultdict(list))
    for path in paths:
        folder, _, name = stem(path).rpartition("/")
        folders[folder][name].append(path)
    unknown: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    twins: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)  # `x.png` and `x.jpg`
    for stems in folders.values():
        _next_to_images(truth, stems, named, unknown)
        for files in [files for files in stems.values() if len(files) == 2]:
            for file, other in zip(files, reversed(files), strict=True):
                twins[PurePosixPath(file).suffix].append((file, [other]))
    for rest, found in [*unknown.items(), *twins.items()]:
        masks, images = [mask for mask, _ in found], [images[0] for _, images in found]
        if len(found) > 2 and are_drawn(masks, locate) and not are_drawn(images, locate):
            for mask, images in found:
                truth.add(mask, images, rest)
        elif len(found) > 2 and re.search("[A-Za-z]", rest) and (masks > images or rest in unknown):
            truth.derived[rest] = masks
    rest = [path for path in paths if path not in truth.owners]
    _in_folders(truth, rest, named, locate, told)
    left = {*rest} - {*truth.owners, *truth.spare}
    truth.spare += sorted(named & left)
    left -= named
    truth.lone = [path for path in truth.lone if path in left]
    if len(truth.lone) > 2 and are_drawn(truth.lone, locate):
        if not told:
            raise ManifestError(
                f"{len(truth.lone)} files are named like masks and have two values, but belong to "
                f"no image: {', '.join(map(printable, truth.lone[:3]))}, ...",
                remedy=f"move them away, or pass their folder as --masks, {NONE}",
            )
        truth.spare += truth.lone
    _in_unnamed_folders([path for path in rest if path in left], locate)
    _by_last_word([path for path in rest if path in left], locate)
    for folder, stems in folders.items():
        outer, _, inner = folder.rpartition("/")
        same = [path for files in stems.values() for path in files if path in left]
        if folder and len(same) > 2 and stems.keys() <= folders.get(outer, {}).keys():
            truth.derived.setdefault(f"{inner}/", []).extend(same)
    return truth


def _next_to_images(
    truth: Truth,
    stems: dict[str, list[str]],
    named: set[str],
    unknown: dict[str, list[tuple[str, list[str]]]],
) -> None:
    """Enter the masks of one folder, whose files are given by stem. Stems that extend others by a
    word that is not known join `unknown`: word -> files and their images."""
    alone = {}  # stem -> how those of its images begin
    for name, files in stems.items():
        extended = [
            (base, rest, at)
            for cut in range(len(name) - 1, 0, -1)
            for base, rest, at in ((name[:cut], name[cut:], 0), (name[-cut:], name[:-cut], -1))
            if base in stems
        ]
        says = [one for one in extended if named.intersection(files) or _says_mask(*one[1:])]
        if says:
            for file in files:
                truth.add(file, stems[says[0][0]], says[0][1])
        elif match := _IMAGE_OF[0].fullmatch(name):
            alone[name] = match["x"]
        elif extended and re.match(r"[ _.-]+\w", extended[0][1]):
            word = re.sub(r"(?<![A-Za-z])\d+$", "1", extended[0][1])
            unknown[word] += [(file, stems[extended[0][0]]) for file in files]
        elif (WORDS - CLASS_WORDS) & {*words(name)}:
            truth.lone += files
    starts: dict[str, list[str]] = defaultdict(list)
    for name in stems if alone else ():
        if name not in alone and stems[name][0] not in truth.owners:
            for start in ("", *(name[: match.start()] for match in re.finditer("[ _.-]", name))):
                starts[start] += stems[name]
    masks: dict[str, list[str]] = defaultdict(list)
    for name, base in alone.items():
        masks[base].append(name)
    for base, names in masks.items():
        images = starts[base]
        each = _of_same_end(base, names, images)
        for name in names:
            found = images if each is None and len(images) <= FEW_IMAGES else (each or {}).get(name)
            for file in stems[name] if found else ():
                truth.add(file, found, "")
            truth.lone += [] if found else stems[name]


def _of_same_end(base: str, names: list[str], images: list[str]) -> dict[str, list[str]] | None:
    """Return the image of each mask of several images, by the end of their names: `image_2` of
    `mask_2`, `a_left` of `a_mask_left`; nothing if only a part of the masks has one. None: no mask
    has one, so that each may be of all images."""

    def end(name: str) -> str:
        last = re.split("[ _.-]+", name[len(base) :].rstrip(")").replace("(", " "))[-1]
        last = re.sub(r"^[A-Za-z]{3,}(?=\d+$)", "", last)  # image2
        return last.lstrip("0") or "0"

    ends: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        key = PurePosixPath(stem(image)).name
        ends[end(key)][key].append(image)
    fits = {name: ends[end(name)] for name in names if end(name) in ends}
    if not fits or sum(map(len, ends.values())) == 1:
        return None
    if len(fits) < len(names) or any(len(found) > 1 for found in fits.values()):
        return {}
    return {name: next(iter(found.values())) for name, found in fits.items()}


def _first_word(names: list[str]) -> re.Pattern:
    """Return a pattern that finds the word with which all names begin, after a group of folders."""
    found = {match[0] if (match := re.match("[A-Za-z]+[ _.-]+", name)) else "" for name in names}
    word = found.pop() if len(found) == 1 else ""
    return re.compile(f"((?:^|.*/)){re.escape(word)}(?=[^/]+$)" if word else "(?!)()")


def _rest(folder: str) -> set[str]:
    return {*words(folder)} - WORDS - IMAGE_WORDS


def _says_mask(rest: str, at: int) -> bool:
    """Return whether what a stem has besides that of an image begins (at 0; before the image, at
    -1: ends) with a word for masks; `xM` and `x_m` are masks too."""
    suffix = re.match(r"\.[A-Za-z]+", rest)  # `x.jpg_mask.png`
    rest = rest[suffix.end() :] if suffix and has_image_suffix(f"x{suffix[0]}") else rest
    found = [word for word in words(rest) if not word.isdigit()]
    if not rest or rest[at].isdigit() or not found:
        return False
    return found[at] in WORDS or bool(not at and re.fullmatch("M|[ _.-][Mm]", rest))


def _in_folders(
    truth: Truth, paths: list[str], named: set[str], locate: Callable[[str], Path], told: bool
) -> None:
    """Enter the files of folders that are named like masks, or of which all files are `named`."""
    below: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for folder in PurePosixPath(path).parents:
            below[folder.as_posix()].append(path)
    masks = {f for f in below if f != "." and named.issuperset(below[f])}
    masks |= {f for f in below if (WORDS - CLASS_WORDS) & {*words(PurePosixPath(f).name)}}
    alike: dict[str, list[str]] = defaultdict(list)  # files in folders of one name
    parents: dict[str, list[str]] = defaultdict(list)
    for folder in sorted(masks):
        pure = PurePosixPath(folder)
        if masks.isdisjoint(parent.as_posix() for parent in pure.parents):
            alike[pure.name] += below[folder]
            parents[pure.parent.as_posix()].append(folder)
    drawn = {name: are_drawn(files, locate) for name, files in alike.items()}
    inside = {path for files in alike.values() for path in files}
    for parent, folders in parents.items():
        others = [path for path in below[parent] if path not in inside]
        top = "" if parent == "." else f"{parent}/"
        tops: dict[str, list[str]] = defaultdict(list)  # folder next to those of masks -> its files
        for path in others:
            tops[path.removeprefix(top).partition("/")[0]].append(path)
        every = Images(others, parent)
        for folder in folders if others else ():
            name, files = PurePosixPath(folder).name, below[folder]
            same = [path for side in tops if _rest(side) == _rest(name) for path in tops[side]]
            # labelsTr is of imagesTr, not of imagesTs
            images = Images(same, parent) if same else every
            found = {path: images.of(stem(path).removeprefix(f"{folder}/")) for path in files}
            paired = [path for path in files if found[path][0]]
            fits = len(paired) >= PAIRED * min(len(files), len(others))
            if not fits and not drawn[name]:
                continue  # a class of that name
            if not told and not (fits and (drawn[name] or named.issuperset(files))):
                doubt, remedy = "its files have many values", f"--mask-name '*{name}/*'"
                if not fits:
                    doubt = "hardly any of its names fits an image"
                    remedy = "--masks TABLE (path, mask)"
                raise ManifestError(
                    f"{printable(folder)} ({len(files)} files) is named like ground truth, but "
                    f"{doubt}",
                    remedy=f"pass {remedy} if they are masks, {NONE}",
                )
            truth.folders[folder] = len(files)
            truth.spare += [path for path in files if not found[path][0]]
            for path in paired:
                truth.add(path, *found[path])
                key = path.removeprefix(f"{folder}/")
                for image in found[path][0]:
                    side, inner, _ = image.removeprefix(top).partition("/")
                    plain = len(tops) == 1 or not IMAGE_WORDS.isdisjoint(words(side))
                    if inner and plain and not key.startswith(f"{side}/"):
                        truth.sides.add(top + side)


def _in_unnamed_folders(paths: list[str], locate: Callable[[str], Path]) -> None:
    """Raise ManifestError where, of few folders next to each other with files of the same names,
    some hold masks by their pixels and some do not."""
    tree: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        parts = path.split("/")
        for depth in range(len(parts)):  # "" = the files next to the folders
            tree["/".join(parts[:depth])][parts[depth] * (depth < len(parts) - 1)].append(path)
    for top, inner in [one for one in tree.items() if 1 < len(one[1]) <= FEW_IMAGES][:FEW_IMAGES]:
        start = f"{top}/" * bool(top)
        for name, files in [one for one in inner.items() if one[0]]:
            others = [path for other in inner if other != name for path in inner[other]]
            images, prefix = Images(others, top), f"{start}{name}/"
            paired = sum(bool(images.of(stem(path).removeprefix(prefix))[0]) for path in files)
            if paired < PAIRED * len(files) or not are_drawn(files, locate):
                continue
            if are_drawn(others, locate):
                continue
            raise ManifestError(
                f"{printable(start + name)} looks like ground truth: {len(files)} files of two "
                f"values, named like those of the folders next to it",
                remedy=f"pass --mask-name '*{name}/*' if they are masks, {NONE}",
            )


def _by_last_word(paths: list[str], locate: Callable[[str], Path]) -> None:
    """Raise ManifestError where files that begin alike, or lie in one folder, end in a few words
    (`x_t1`, `x_tumour`), and those of one word are masks by their pixels."""
    files: dict[str, dict[str, str]] = defaultdict(dict)  # last word -> the rest -> file
    for path in paths:
        cut = max(map(stem(path).rfind, "/ _.-")) + 1
        files[stem(path)[cut:]][path[:cut]] = path
    few = {word: found for word, found in files.items() if len(found) > 2 and not word.isdigit()}
    several = few if 1 < len(few) <= FEW_IMAGES else ()
    drawn = [word for word in several if are_drawn([*few[word].values()], locate)]
    images = {start for word in several if word not in drawn for start in few[word]}
    for word in drawn:
        if len(images & few[word].keys()) >= PAIRED * len(few[word]):
            first = printable(next(iter(few[word].values())))
            raise ManifestError(
                f"{len(few[word])} files that end in {word!r} look like ground truth: they have "
                f"two values and are next to files that begin alike, e.g. {first}",
                remedy=f"pass --mask-name '*{word}.*' if they are masks, {NONE}",
            )


def are_drawn(files: list[str], locate: Callable[[str], Path], frame: int = 0) -> bool:
    """Return whether one frame of most of a sample of files is a mask by its pixels: of two values,
    nearly black or white, or labels. Volumes are not read: the answer is yes."""
    answers = []
    for path in files[:: -(-len(files) // SAMPLE)]:
        if path.lower().endswith(NOT_READ):
            return True
        try:
            grey = read_image(locate(path), frame).max(axis=2)
        except PipelineError:
            continue
        low, high = int(grey.min()), int(grey.max())
        two = high - low >= 100 and np.mean((grey < low + 16) | (grey > high - 16)) >= TWO
        answers.append(bool(two) or len(np.unique(grey)) <= FEW_VALUES)
    return sum(answers) > len(answers) / 2
