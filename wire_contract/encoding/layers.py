"""How the layers of a gap-coded entry nest: which elements they contain, and in how many layers each element is.

A layer that equals the layer before takes no bits, and there is nothing to read: only the other layers are kept
(*links* of a chain), each with the number of layers that it represents. The links of one tensor form a chain from its
elements inwards; links at the same depth, of all tensors, are resolved in one step.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from wire_contract.encoding.heads import TensorHead
from wire_contract.encoding.subsets import Subsets


class NestedSubsets:
    """The links of all tensors of one entry. Plain numbers: for some ten of them, arrays are slower than a loop."""

    def __init__(self, heads: Sequence[TensorHead], sizes: Sequence[int]) -> None:
        """For tensors of `sizes` elements, of which at least one is not all zeros."""
        outer: list[int] = []
        counts: list[int] = []
        self.offsets: list[int] = []
        """Added to the coded places of each link: where its set begins among the members at the depth before (at depth
        0: among all elements), or for an inverted link where its mask begins."""
        self._weights: list[int] = []
        """Number of layers that each link represents."""
        deepest = max(len(head.layers) for head in heads)
        self._depths: list[list[int]] = [[] for _ in range(deepest)]
        """Links by depth; the first is layer 1 of every tensor, which is always a link."""
        self._members = [0] * deepest
        """Number of members of all links, by depth."""
        self._struck: list[list[int]] = [[] for _ in range(deepest)]
        """Inverted links by depth. Their coded places are removed from one mask of all their sets."""
        self._shifts: list[list[int]] = [[] for _ in range(deepest)]
        """For each inverted link, the distance from its mask to its set."""
        masks = [0] * deepest
        inside, begins = list(sizes), [*accumulate(sizes[:-1], initial=0)]
        depths, newest = [0] * len(sizes), [0] * len(sizes)
        tensors: Sequence[int] = range(len(sizes))
        for layer in range(deepest):
            tensors = [tensor for tensor in tensors if len(heads[tensor].layers) > layer]
            for tensor in tensors:
                size, count = inside[tensor], heads[tensor].layers[layer]
                if layer and count == size:
                    self._weights[newest[tensor]] += 1
                    continue
                depth, begin, link = depths[tensor], begins[tensor], len(counts)
                if 2 * count > size:
                    self._struck[depth].append(link)
                    self._shifts[depth].append(begin - masks[depth])
                    begin = masks[depth]
                    masks[depth] += size
                outer.append(size)
                counts.append(count)
                self.offsets.append(begin)
                self._weights.append(1)
                self._depths[depth].append(link)
                inside[tensor], begins[tensor] = count, self._members[depth]
                self._members[depth] += count
                depths[tensor], newest[tensor] = depth + 1, link
        self.subsets = Subsets.of(outer, counts)
        """In coding order: layer by layer, and tensor by tensor."""
        while not self._depths[-1]:
            self._depths.pop()

    def elements_and_levels(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The elements of layer 1 of all tensors, (member,) in order, and in how many layers each is; None: all in one.

        Args:
            places: the coded places of all links, with their offsets added.
        """
        stops = [*accumulate(self.subsets.coded, initial=0)]
        if len(self._depths) == 1 and max(self._weights) == 1:
            return self._at(0, places, stops), None
        # From the inside out: the layers of an inner link's members are added to those of the outer link.
        within = self._weights_at(len(self._depths) - 1)
        for depth in range(len(self._depths) - 1, 0, -1):
            before = self._weights_at(depth - 1)
            before[self._at(depth, places, stops)] += within
            within = before
        return self._at(0, places, stops), within

    def _weights_at(self, depth: int) -> np.ndarray:
        """(member,) float32 weights of the links at `depth`."""
        weights = [self._weights[link] for link in self._depths[depth]]
        if min(weights) == max(weights):
            return np.full(self._members[depth], weights[0], dtype=np.float32)
        return np.array(weights, dtype=np.float32).repeat([self.subsets.counts[link] for link in self._depths[depth]])

    def _at(self, depth: int, places: np.ndarray, stops: Sequence[int]) -> np.ndarray:
        """The members of the links at `depth`, one after another: the coded places, or for inverted links all
        others.
        """
        links, struck = self._depths[depth], self._struck[depth]
        if not struck and links[-1] - links[0] == len(links) - 1:
            return places[stops[links[0]] : stops[links[-1] + 1]]
        pieces = [places[stops[link] : stops[link + 1]] for link in links]
        if struck:
            subsets, complements = self.subsets, set(struck)
            inverted = [link in complements for link in links]
            mask = np.ones(sum(subsets.sizes[link] for link in struck), dtype=np.bool_)
            mask[np.concatenate([piece for piece, turned in zip(pieces, inverted, strict=True) if turned])] = False
            rest = mask.nonzero()[0]
            counts = [subsets.counts[link] for link in struck]
            rest += np.array(self._shifts[depth]).repeat(counts)
            ends = accumulate(counts)
            for at, turned in enumerate(inverted):
                if turned:
                    end = next(ends)
                    pieces[at] = rest[end - subsets.counts[links[at]] : end]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
