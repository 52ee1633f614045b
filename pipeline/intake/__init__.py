"""From a folder, table or zip of images to a manifest."""

from pipeline.intake.add import AddSummary as AddSummary
from pipeline.intake.add import add_dataset as add_dataset
from pipeline.intake.add import refresh_dataset as refresh_dataset
from pipeline.intake.user_tables import TableRules as TableRules
