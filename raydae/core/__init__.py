"""Core: what every room builds on. Imports no other room, and neither torch nor Ray.

errors           UserError, the exception for bad input
settings         dataclasses from dictionaries, with type checks and dotted names
components       networks, noises, losses ... by name or import path, and their options
storage          folders, local or behind URIs; every write is whole or absent
local_files      those on this machine; their names may hold any bytes
lock             one process at a time works in a folder
random_numbers   a counter-based generator, the same on the CPU and on a GPU
pixels           from the [0, 1] scale to uint8
pixel_hashes     a set of images, known by their pixels
toolchain        whether GPU kernels can be built on this machine

A file belongs here if several rooms need it and it knows nothing of images or training.
"""
