"""Images: picture files, image sources and their splits, BSDS500, synthetic images.

Imports `core` only, and neither torch nor Ray: the processes that cut patches start fast.
"""
