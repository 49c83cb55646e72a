"""Every file of a folder with tuspy, one after the other: client.py URL FOLDER. Runs in an environment of its own."""

import os
import sys

from tusclient.client import TusClient  # type: ignore[import-not-found]

CHUNK = 64 << 20  # the default is one chunk, which is read into memory whole


def main() -> None:
    """Send them."""
    url, folder = sys.argv[1:]
    client = TusClient(url)
    for name in sorted(os.listdir(folder)):
        client.uploader(os.path.join(folder, name), chunk_size=CHUNK, metadata={"filename": name}).upload()


if __name__ == "__main__":
    main()
