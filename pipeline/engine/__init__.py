"""The engine that maps images to rows: read ahead, map batches, write rows, keep a record."""
