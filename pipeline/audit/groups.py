"""Groups from pairs: images are in one group if a chain of copies joins them (union-find)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def connect(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the component of each of `count` nodes under the edges left[k] - right[k].

    Returns:
        (count,) int64 component numbers.
    """
    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    return connected_components(edges, directed=False)[1].astype(np.int64)


def joined_to(
    marked: np.ndarray, left: np.ndarray, right: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """Return which nodes are marked or joined to a marked one by an edge left[k] - right[k].

    The edges of the nodes in `cut` are not all known: in a component that has one of these, a
    chain of edges joins as well.

    Args:
        marked: (count,) bool.
        left, right: (n,) int64 nodes.
        cut: (m,) int64 nodes.

    Returns:
        (count,) bool.
    """
    joined = marked.copy()
    joined[left[marked[right]]] = True
    joined[right[marked[left]]] = True
    part = connect(len(marked), left, right)
    return joined | (np.isin(part, part[marked]) & np.isin(part, part[cut]))


def name_groups(ids: Sequence[str], component: np.ndarray) -> np.ndarray:
    """Name each component by its first image_id in sorted order, so that no order matters.

    Returns:
        (n,) object array; an image that is alone bears its own image_id.
    """
    ids = np.asarray(ids, dtype=object)
    first: dict[int, str] = {}
    for name, part in zip(ids, component, strict=True):
        if part not in first or name < first[part]:
            first[part] = name
    return np.array([first[part] for part in component], dtype=object)
