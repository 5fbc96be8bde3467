"""Models: one file for each network, model files, and tiled inference.

Imports `core` only; never Ray. `config`, `released` and `header` import no torch either.

    config       the settings, the table of networks, NETWORKS, and their options
    networks     what a network is; building one by name
    dae          the plain convolutional autoencoder, the default
    unet         the residual U-Net of the released models
    header       the header of a safetensors file
    weights      weights and optimizer states as safetensors
    model_file   model files, which rebuild their network but import nothing untrusted
    released     the models that come with raydae
    inference    an image of any size through a network, in tiles, which `tiling` cuts
    conversion   lists, stacks, PIL images and torch tensors as arrays, and back

To add a network, write a file with its `nn.Module`, and add a row to NETWORKS with a dataclass of
its options.
"""
