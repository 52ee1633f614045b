"""Tests of manifests, intake, splits and phantoms."""
