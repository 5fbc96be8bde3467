"""The plain convolutional autoencoder."""

import itertools

from torch import Tensor, nn


class DenoisingAutoencoder(nn.Module):
    """A plain convolutional denoising autoencoder (after Vincent et al. 2008), 3.10 M parameters.

    Four times convolution and max pooling down to h/16 x w/16 x 512, four transposed convolutions
    back up. Made to be simple, not strong: what max pooling forgets of position does not come back.
    Batch statistics are each worker's own in training; those of rank 0 are kept.
    """

    multiple = 16
    # Convolutions reach 1 pixel further at the scales 1, 2, 4 and 8, poolings and transposed
    # convolutions too: three times 15.
    margin = 48

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 64, 128, 256, 512]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(n_in, n_out, 3, padding=1),
                nn.BatchNorm2d(n_out),
                nn.LeakyReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        for n_in, n_out in zip(widths[:0:-1], widths[-2::-1], strict=True):
            layers += [
                nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(n_out),
                nn.Sigmoid() if n_out == 3 else nn.LeakyReLU(inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, noisy: Tensor) -> Tensor:
        """(n, 3, h, w) to the same shape, within [0, 1]; h and w divisible by 16."""
        denoised: Tensor = self.layers(noisy)
        return denoised
