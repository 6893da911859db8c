"""Videos whose frames tell their number."""

import numpy as np


def video(path, n, codec="MJPG"):
    """n <= 31 frames, 64 x 48: black, and red up to column 2 i + 1 of frame i, so that a decoded frame tells its i."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
    assert writer.isOpened()
    for i in range(n):
        writer.write(np.uint8([[[0, 0, 255 * (column < 2 * (i + 1))] for column in range(64)]] * 48))  # BGR
    writer.release()
    return path


def number(frame):
    """The i of a frame of `video`."""
    return round(frame[..., 0].mean() / 255 * 64 / 2) - 1


def cut(path, share):
    """A copy beside it with that share of its bytes."""
    (short := path.with_name(f"cut{path.suffix}")).write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return short
