"""Read a list of images from an S3 server of which some requests fail; kill the command twice, and repeat it.

`python -m benchmarks.objects [IMAGES] [FAILING]` prints one JSON object: requests and bytes of each try, against the
bytes of the images.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from headstart.pipeline.demo.drawing import draw_demo
from headstart.tests.conftest import SMALL_FLAGS
from headstart.tests.objects import KEYS, Unsteady, s3_server

BUCKET = "images"


def measure(folder: Path, images: int, failing: float) -> dict[str, Any]:
    """Make the images, the server and the list in `folder`. Return the figures of each try."""
    draw_demo(folder / "drawn", images, seed=1)
    files = [path for path in sorted((folder / "drawn").rglob("*.jpg")) if "broken" not in path.name]
    with s3_server() as port, Unsteady(port).running() as front:
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL": front.url}
        sizes = _uploaded(files)
        rows = [f"s3://{BUCKET}/{name},{path.parent.name}" for name, path in zip(sizes, files, strict=True)]
        rows += [f"s3://{BUCKET}/gone-{number}.jpg,cat" for number in range(2)]
        (folder / "images.csv").write_text("\n".join(["path,label", *rows, ""]))
        front.failing = failing
        tries = [
            _try(folder, front, lambda: front.requests["GET"] > len(sizes) // 2),
            _try(folder, front, lambda: len(_kept(folder)) >= len(sizes)),
            _try(folder, front, lambda: False),
            _try(folder, front, lambda: False),
        ]
    return {"images": len(sizes), "bytes": sum(sizes.values()), "failing": failing, "tries": tries}


def _uploaded(files: list[Path]) -> dict[str, int]:
    """Upload `files`, the last of them cut in half. Return the size of each object, by its name."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    sizes = {}
    for number, path in enumerate(files):
        content = path.read_bytes()
        if number == len(files) - 1:
            content = content[: len(content) // 2]
        client.put_object(Bucket=BUCKET, Key=f"{number:05}.jpg", Body=content)
        sizes[f"{number:05}.jpg"] = len(content)
    return sizes


def _try(folder: Path, front: Unsteady, kill: Callable[[], bool]) -> dict[str, Any]:
    """Run `headstart features` until it ends, or until `kill` returns True. Return what was asked for."""
    front.reset()
    command = [sys.executable, "-m", "headstart.cli", "features", str(folder / "images.csv"), "--json"]
    start = time.perf_counter()
    with subprocess.Popen(
        [*command, f"--store={folder / 'store'}", *SMALL_FLAGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        while run.poll() is None and not kill():
            time.sleep(0.02)
        killed = run.poll() is None
        run.kill()
        printed, said = run.communicate()
    if not killed and run.returncode:
        raise SystemExit(said.decode())
    return {
        "killed": killed,
        "seconds": round(time.perf_counter() - start, 1),
        "requests": dict(front.requests),
        "bytes": front.bytes,
        "read_twice": sum(count > 1 for count in front.read.values()),
        "kept_files": len(_kept(folder)),
        **({"result": json.loads(printed)} if printed and not killed else {}),
    }


def _kept(folder: Path) -> list[Path]:
    return list((folder / "store").glob(".fetched/*/*/[!.]*"))


if __name__ == "__main__":
    with TemporaryDirectory() as scratch:
        given = sys.argv[1:]
        count, share = int(given[0]) if given else 500, float(given[1]) if given[1:] else 0.05
        print(json.dumps(measure(Path(scratch), count, share), indent=2))
        shutil.rmtree(Path(scratch) / "store", ignore_errors=True)
