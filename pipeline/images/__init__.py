"""From rows of the images table to batches of pixels.

- `shards`: the rows that a worker takes at once
- `fetch`, `prefetch`: bytes, many objects at once, ahead of their use
- `decode`, `png`, `rgb`, `orientation`: bytes to upright RGB pixels, whole or by windows
- `batches`: images of one padded shape
- `gpu_copy`: pinned memory and copies to a GPU
"""
