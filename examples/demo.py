"""Make demo/, a project folder of its own with this code and the small study of demo.yaml.

In a folder of its own the demo changes neither params.yaml nor the results of your own data.
"""

import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "pipeline",
    "stages",
    "checkpoints",
    "dvc.yaml",
    ".dvcignore",
    "data_manifests/prompts.yaml",
)


def small_params(file: Path = ROOT / "examples/demo.yaml", **more: object) -> dict:
    """Return params.yaml with what a file such as demo.yaml changes in it, and more by dotted
    key."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    changes = yaml.safe_load(file.read_text(encoding="utf-8"))
    for dotted, value in (changes | more).items():
        *parents, leaf = dotted.split(".")
        section = params
        for parent in parents:
            section = section[parent]
        section[leaf] = value
    return params


def make(folder: Path) -> None:
    """Write the folder, and keep what an earlier demo has computed there."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    (folder / ".dvc").mkdir(exist_ok=True)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    text = yaml.safe_dump(small_params(), sort_keys=False)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make(ROOT / "demo")
