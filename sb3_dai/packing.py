"""Many small tensors as pieces of a large one, on which a kernel works at once."""

import itertools
from collections.abc import Iterable, Sequence

import torch as th

ALIGNMENT = 16
"""Each piece begins at a multiple of so many numbers, as vector instructions and matrix products like it."""


class Packed:
    """
    Moves tensors into one piece of memory. They stay the objects that they are, with their shapes and values.

    :param tensors: of one type, on one device
    :param forms: whose order in memory they are to have; their own if None
    """

    def __init__(self, tensors: Sequence[th.Tensor], forms: Sequence[th.Tensor] | None = None) -> None:
        self.tensors = list(tensors)
        dense = [th.empty_like(tensor, device="meta") for tensor in forms or tensors]
        self.sizes = [-(-tensor.numel() // ALIGNMENT) * ALIGNMENT for tensor in dense]
        starts = [0, *itertools.accumulate(self.sizes)]
        self.starts = starts[:-1]
        self.forms = [(tensor.shape, tensor.stride(), start) for tensor, start in zip(dense, self.starts, strict=True)]
        self.flat = self.tensors[0].detach().new_zeros(starts[-1])
        self.place()

    def place(self) -> None:
        """Move the tensors in, or in again after something else has moved them out."""
        with th.no_grad():
            for tensor, piece in zip(self.tensors, self.views(self.flat), strict=True):
                if tensor.data_ptr() != piece.data_ptr() or tensor.stride() != piece.stride():
                    piece.copy_(tensor)
                    tensor.data = piece
        self.pointers = [*map(th.Tensor.data_ptr, self.tensors)]

    @property
    def in_place(self) -> bool:
        """Whether nothing has moved the tensors, such as a change of device, or ``vector_to_parameters`` of torch."""
        return [*map(th.Tensor.data_ptr, self.tensors)] == self.pointers

    def views(self, flat: th.Tensor) -> list[th.Tensor]:
        """
        :param flat: of the size of ``self.flat``
        :return: its pieces, of the shapes of the tensors
        """
        return [flat.as_strided(*form) for form in self.forms]

    def joined(self, tensors: Sequence[th.Tensor]) -> th.Tensor:
        """
        :param tensors: of the shapes of the packed ones
        :return: in the order of ``self.flat``, of its size, with zeros between them
        """
        parts: list[th.Tensor] = []
        for tensor, size, (_, strides, _) in zip(tensors, self.sizes, self.forms, strict=True):
            in_memory = sorted(range(tensor.dim()), key=lambda i, strides=strides: -strides[i])  # type: ignore[misc]
            parts.append(tensor.permute(in_memory).reshape(-1))
            if size > tensor.numel():
                parts.append(tensor.new_zeros(size - tensor.numel()))
        return th.cat(parts)

    def spread(self, scalars: Sequence[th.Tensor]) -> th.Tensor:
        """
        :param scalars: one for each of the packed tensors, shapes ()
        :return: each for all the numbers of its tensor, of the size of ``self.flat``
        """
        return th.cat([scalar.expand(size) for scalar, size in zip(scalars, self.sizes, strict=True)])


def unpack(tensors: Iterable[th.Tensor]) -> None:
    """
    Give each its own memory. A view is pickled with all the memory that it is a view of, by ``pickle`` once for each view.

    :param tensors: any, some of them packed
    """
    for tensor in tensors:
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor.data = tensor.detach().clone()
