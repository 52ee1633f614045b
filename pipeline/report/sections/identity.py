"""Where the figures come from: hashes, models, versions of the stores and runs of a dataset."""

from __future__ import annotations

from typing import Any

from pipeline.config import Params
from pipeline.report.gallery import Album
from pipeline.report.inputs import DatasetInputs
from pipeline.report.page import Details, Section
from pipeline.report.sections.leaks import flat
from pipeline.report.tables import Table, head


def section(found: DatasetInputs, album: Album, params: Params) -> Section | None:
    """Show the manifest's hash and everything that decides the content of the stores."""
    blocks: list[Any] = []
    if found.manifest_hash:
        rows = [
            [head("manifest"), f"data_manifests/{found.name}.csv"],
            [head("sha256"), found.manifest_hash],
            [head("images"), len(found.manifest) if found.manifest is not None else None],
            [head("classes"), ", ".join(found.classes)],
        ]
        blocks.append(Table(["what", "value"], rows, sortable=False))
    for title, store in (("mask store", found.masks), ("feature store", found.features)):
        identity = getattr(store, "identity", None)
        if identity:
            rows = [[head(k), v] for k, v in flat(identity)]
            blocks.append(
                Details(f"Identity of the {title}", [Table(["what", "value"], rows)], printed=False)
            )
    for stage, record in found.records.items():
        facts = {k: record[k] for k in ("identity", "parameters", "versions") if record.get(k)}
        if facts:
            rows = [[head(k), v] for k, v in flat(facts)]
            blocks.append(
                Details(f"Record of {stage}", [Table(["what", "value"], rows)], printed=False)
            )
    return Section("identity", "Where the figures come from", blocks) if blocks else None
