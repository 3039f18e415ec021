"""From rows of the images table to batches of pixels.

- `shards`: the rows that a worker takes at once
- `fetch`, `prefetch`: bytes, many objects at once, ahead of their use
- `policy`: the settings of decoding, which a run records
- `header`, `jpeg`: what is known of an image before a pixel is decoded
- `decode`, `png`, `values`, `rgb`, `orientation`: bytes to upright RGB pixels, of the full image or by windows
- `decode_process`, `decode_worker`: the same in a process that can be ended
- `file_warnings`: warnings of decoders name their file
- `batches`: images of one padded shape
- `gpu_copy`: pinned memory and copies to a GPU
"""
