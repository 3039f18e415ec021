"""RGB images in the color spaces of selective search, each channel of about 0 to 255."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
_WHITE = np.array([0.9505, 1.0, 1.089], np.float32)


def hsv(image: npt.NDArray[np.uint8]) -> Floats:
    """Hue, saturation and value (H, W, 3) of an image (H, W, 3), each 0 to 255; the hue of a gray is 0."""
    rgb = image.astype(np.float32) / 255
    value, least = rgb.max(2), rgb.min(2)
    spread = value - least
    safe = np.where(spread > 0, spread, 1)
    red, green, blue = np.moveaxis(rgb, 2, 0)
    sixth = np.select(
        [value == red, value == green],
        [((green - blue) / safe) % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    hue = np.where(spread > 0, sixth / 6, 0)
    saturation = np.where(value > 0, spread / np.where(value > 0, value, 1), 0)
    return (np.stack([hue, saturation, value], axis=2) * 255).astype(np.float32)


def lab(image: npt.NDArray[np.uint8]) -> Floats:
    """CIE L*a*b* (H, W, 3) of an sRGB image under D65: L stretched to 0 to 255, a and b moved by 128."""
    rgb = image.astype(np.float32) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = linear @ _TO_XYZ.T / _WHITE
    curve = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(curve, 2, 0)
    channels = [(116 * y - 16) * 2.55, 500 * (x - y) + 128, 200 * (y - z) + 128]
    return np.stack(channels, axis=2).astype(np.float32)
