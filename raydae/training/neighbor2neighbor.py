"""Training without clean images: Neighbor2Neighbor (Huang et al., CVPR 2021).

Two pictures are drawn from the neighbouring pixels of a noisy one (`noise/neighbors.py`). The
network learns to make the second of the first. Because neighbours do not show exactly the same, a
regulariser compares the result with what the two pictures of the whole denoised picture differ by.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raydae.noise.neighbors import CHOICES


def split_batch(images: Tensor, choices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two pictures of half the size that the choices make of each picture.

    Args:
        images: (n, c, h, w), h and w even.
        choices: uint8 (n, h / 2, w / 2), as `neighbors.draw_choices` draws them.

    Returns:
        Two batches (n, c, h / 2, w / 2), channels last in memory.
    """
    n, c, height, width = images.shape
    cells = images.reshape(n, c, height // 2, 2, width // 2, 2).permute(0, 1, 2, 4, 3, 5)
    cells = cells.reshape(n, c, height // 2, width // 2, 4)
    pairs = torch.from_numpy(CHOICES).to(images.device)[choices.long()].long()
    halves = []
    for which in range(2):
        place = pairs[:, None, :, :, which, None].expand(-1, c, -1, -1, -1)
        half = cells.gather(4, place)[..., 0]
        halves.append(half.contiguous(memory_format=torch.channels_last))
    return halves[0], halves[1]


def neighbor_loss(
    network: Callable[[Tensor], Tensor],
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    noisy: Tensor,
    choices: Tensor,
    weight: float | Tensor,
) -> Tensor:
    """Return the loss of a batch of noisy patches; equation 7 of the paper, with any loss.

    Args:
        network: denoises the whole patches, without gradients.
        forward: the same network, through which gradients are to flow.
        loss: of (denoised, what it should be, noisy), as `losses` has them.
        noisy: float32 (n, 3, h, w) on [0, 1].
        choices: uint8 (n, h / 2, w / 2).
        weight: of the regulariser.

    Returns:
        A tensor of no dimensions.
    """
    with torch.no_grad():
        first_of_denoised, second_of_denoised = split_batch(network(noisy).float(), choices)
    first, second = split_batch(noisy, choices)
    off = forward(first).float() - second
    expected = first_of_denoised - second_of_denoised
    return loss(second + off, second, first) + weight * loss(second + off, second + expected, first)
