"""The examples of docs/data.md on public sets, run on small drawn copies of their layouts."""

from __future__ import annotations

import re
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipeline.manifest import read_manifest
from tests.data.conftest import mask, picture
from tests.images.makers import dicom, grey, save_dicom, save_nifti
from tests.project import REPO, in_process

CT = "1.2.840.10008.5.1.4.1.1."
CLASSES_OF = {"CT": f"{CT}2", "SEG": f"{CT}66.4", "RTDOSE": f"{CT}481.2"}
NIH = "Image Index,Finding Labels,Patient ID\n" + "".join(
    f"{p:08}_{k:03}.png,{('Mass', 'Edema', 'Mass|Edema')[p % 3]},{p}\n"
    for p, k in product(range(6), range(2))
)
HAM = "lesion_id,image_id,dx\n" + "".join(
    f"HAM_{i // 2},ISIC_{i},{'ab'[i // 6]}\n" for i in range(12)
)
CHEXPERT = "Path,Sex,No Finding,Cardiomegaly,Edema\n" + "".join(
    f"CheXpert-v1.0-small/train/patient{p:05}/study1/view{k}_frontal.jpg,F,{row}\n"
    for (p, row), k in product(enumerate(("1.0,,", ",,1.0", ",1.0,-1.0", ",,1.0")), (1, 2))
)
RSNA = "patientId,x,y,width,height,Target\n" + "".join(
    f"p{row}\n" for row in ("0,,,,,0", "1,1,2,5,4,1", "1,4,2,6,5,1", "2,,,,,0", "3,1,1,4,4,1")
)
VINDR = "image_id,class_name,rad_id,x_min,y_min,x_max,y_max\n" + "".join(
    f"{i},{('No finding,R{},,,,', 'Edema,R{},1,1,{},6')[i % 2].format(r, 5 + r)}\n"
    for i, r in product(range(4), range(3))
)
CLASSES = "path,label,patient_id\n" + "".join(
    f"imagesTr/case_00{i}_0000.nii.gz,{'ab'[i % 2]},00{i}\n" for i in range(4)
)
BREAKHIS = "BreaKHis_v1/histology_slides/breast/{c}/SOB/adenoma/SOB_{c}_14-2{i}/"
LIDC = "lidc/{c}/LIDC-{c}00{i}/"
# The files of a layout, for classes c = a, b and i = 0 to 3: pictures (of 12 x 9 pixels; other
# sizes after "SIZE:"), masks after "m:", and tables; then images, masks and patients of each
# example, and what it says.
LAYOUTS = {
    "busi": (
        ["Dataset_BUSI_with_GT/{c}/{c} ({i}).png", "m:Dataset_BUSI_with_GT/{c}/{c} ({i})_mask.png",
         "m:Dataset_BUSI_with_GT/a/a (1)_mask_1.png"],
        (8, 8, 0, "1 images have masks of several files, which are united"),
    ),
    "radiography": (
        ["COVID-19_Radiography_Dataset/{c}/images/{c}-{i}.png",
         "m16x12:COVID-19_Radiography_Dataset/{c}/masks/{c}-{i}.png"],
        (8, 8, 0, "8 of 8 ground-truth masks have another size"),
    ),
    "breakhis": (
        [BREAKHIS + "40X/{i}.png", BREAKHIS + "100X/{i}.png"], (16, 0, 8, "class/*/*/patient")
    ),
    "breakhis40": ([BREAKHIS + "40X/{i}.png", BREAKHIS + "100X/{i}.png"], (8, 0, 8, "40X")),
    "brats": (
        [f"{'m:' * (kind == 'seg')}MICCAI_BraTS_2018/{{c}}GG/Brats18_{{c}}_{{i}}/"
         f"Brats18_{{c}}_{{i}}_{kind}.nii.gz" for kind in ("flair", "t1", "seg")],
        (16, 16, 8, "class/patient/*_flair*"),
    ),
    "nnunet": (
        ["imagesTr/case_00{i}_0000.nii.gz", "m:labelsTr/case_00{i}.nii.gz",
         "imagesTs/case_01{i}_0000.nii.gz", ("classes.csv", CLASSES)],
        (8, 8, 4, "4 image files became 8 rows"),
    ),
    "ham10000": (
        ["HAM10000_images_part_1/ISIC_{i}.jpg",
         *(f"HAM10000_images_part_2/ISIC_{i}.jpg" for i in range(4, 12)),
         ("HAM10000_metadata.csv", HAM)],
        (12, 0, 0, "group from 'lesion_id'; 6 groups"),
    ),
    "nih": (
        [*(f"images_00{1 + p // 3}/images/{p:08}_00{k}.png" for p in range(6) for k in (0, 1)),
         ("Data_Entry_2017.csv", NIH),
         ("train_val_list.txt", "\n".join(re.findall(r"0000000[0-3].*png", NIH))),
         ("test_list.txt", "\n".join(re.findall(r"0000000[45].*png", NIH)))],
        (8, 0, 4, "2 test from test_list.txt, 6 train from train_val_list.txt"),
    ),
    "chexpert": (
        [*(f"train/patient0000{p}/study1/view{k}_frontal.jpg" for p in range(4) for k in (1, 2)),
         ("train.csv", CHEXPERT)],
        (6, 0, 3, "skipped 2: image without a label"),
    ),
    "tcia": (
        [LIDC + "CT/1-0{i}.dcm", LIDC + "SEG/1-1.dcm", LIDC + "RTDOSE/1-2.dcm"],
        (8, 0, 8, "skipped 8: DICOM segmentation (SEG): ground truth"),
    ),
    "rsna": (
        ["stage_2_train_images/p{i}.png", ("stage_2_train_labels.csv", RSNA)],
        (4, 0, 4, "3 boxes are x,y,width,height in pixels"),
    ),
    "vindr": (
        ["train/{i}.png", ("train.csv", VINDR)], (4, 0, 0, "6 boxes are x0,y0,x1,y1 in pixels")
    ),
}  # fmt: skip


def draw(root: Path, pattern: str) -> None:
    """Write the files of a pattern, each once, of the kind that their names say."""
    kind, _, pattern = pattern.rpartition(":")
    for at, (c, i) in enumerate(product("ab", range(4))):
        path = root / pattern.format(c=c, i=i)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            continue
        if path.name.endswith(".nii.gz"):
            voxels = np.arange(3 * 4 * 2).reshape(3, 4, 2) + at
            save_nifti((voxels > 20).astype(np.uint8) if kind else voxels.astype(np.int16), path)
        elif path.suffix == ".dcm":
            tags = {"SOPClassUID": CLASSES_OF[path.parent.name], "patient": f"{c}{i}"}
            save_dicom(dicom(grey(9, 12, at), **tags), path)
        elif kind:
            mask(path, 20 + at, size=(16, 12) if kind == "m16x12" else (12, 9))
        else:
            picture(path, seed=hash(path.name) % 999)


@pytest.mark.promise("The documented command for each public layout gives what the page says.")
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_documented_command_reads_the_layout(project, name):
    files, (images, masks, patients, said) = LAYOUTS[name]
    for file in files:
        if isinstance(file, tuple):
            (project / file[0]).write_text(file[1])
        else:
            draw(project, file)
    page = (REPO / "docs/data.md").read_text().replace("\\\n", " ")
    command = re.search(rf"pipeline (data add {name} .*?)(?: #.*)?\n", page)[1]
    code, text = in_process(project, *shlex.split(command))
    assert code == 0 and said in text, text
    frame = read_manifest(project / f"data_manifests/{name}.csv", data=project / f"data/{name}")
    units = set(frame["patient_id"]) - {""}
    assert (len(frame), (frame["mask_path"] != "").sum(), len(units)) == (images, masks, patients)
    assert frame["label"].nunique() == 2
