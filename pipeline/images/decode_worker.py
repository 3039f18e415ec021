"""The process that `decode_process` starts: it decodes one image and gives its pixels back."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images.decode import decode


def main() -> None:
    """Say that all is imported, read an image and its policy, write its pixels, or what is wrong with it."""
    sys.stdout.buffer.write(b"!")
    sys.stdout.buffer.flush()
    data, policy, target = pickle.loads(sys.stdin.buffer.read())
    outcome: object
    try:
        image = decode(data, replace(policy, image_timeout=0.0), (lambda height, width: target) if target else None)
        outcome = (image.pixels, image.orientation, image.height, image.width)
    except ImageError as error:
        outcome = str(error)
    pickle.dump(outcome, sys.stdout.buffer, protocol=5)


if __name__ == "__main__":
    main()
