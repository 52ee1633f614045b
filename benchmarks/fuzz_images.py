"""Read mutated files of every format with the image reader.

Each must give an array or an ImageError. A crash of a decoder, a hang, another exception or an
array that contradicts `probe` is a finding. Files are read in a subprocess with limited memory and
time, so that a crash is detected and counted.

    python benchmarks/fuzz_images.py --count 1000 --seed 0 --keep findings

Prints a table and exits 1 if anything was found; --json writes the figures.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fuzz_seeds import FORMATS, VALID_CRC, make_seeds
from pipeline.images.raster import png_chunks

EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\x01")
FINDINGS = ("crash", "hang", "other exception", "contradiction")
MEMORY = 6 * 2**30


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return `data` after one to four random mutations; `other` is a file to splice from."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if len(out) < 8:
            break
        # Half of the mutations are in the first kilobyte, where the headers are.
        span = len(out) if rng.random() < 0.5 else min(len(out), 1024)
        at, length = int(rng.integers(0, span)), int(rng.integers(1, 64))
        match rng.integers(0, 8):
            case 0:
                out[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                out[at : at + length] = rng.bytes(min(length, len(out) - at))
            case 2:
                size = int(rng.choice([1, 2, 4, 8]))
                out[at : at + size] = EXTREMES[rng.integers(0, len(EXTREMES))] * size
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length]
            case 5:
                del out[int(rng.integers(len(out) // 4, len(out))) :]
            case 6:
                out[at : at + length] = b"\0" * length
            case 7:
                start = int(rng.integers(0, max(1, len(other) - length)))
                out[at : at + length] = other[start : start + length]
    return bytes(out)


def make_file(seeds: list[bytes], kind: str, index: int, seed: int) -> bytes:
    """Return mutated file `index` of a format; the same for the same seed."""
    rng = np.random.default_rng([seed, FORMATS.index(kind), index])
    data = mutate(seeds[index % len(seeds)], seeds[rng.integers(0, len(seeds))], rng)
    return fix_checksums(data) if kind == VALID_CRC else data


def fix_checksums(data: bytes) -> bytes:
    """Correct the checksums of a mutated PNG, so that it reaches the decoder."""
    out = bytearray(data)
    for _, offset, length in png_chunks(data):
        end = offset + length
        if end + 4 <= len(out):
            out[end : end + 4] = zlib.crc32(out[offset - 4 : end]).to_bytes(4, "big")
    return bytes(out)


def judge(path: Path) -> str:
    """Read a file in every way and return the outcome."""
    from pipeline.errors import ImageError
    from pipeline.images import probe, read_image, read_mask

    outcome, size = "error", None
    for read in (probe, read_image, read_mask):
        try:
            result = read(path)
        except ImageError as error:
            if not error.message or error.path is None:
                return "contradiction: an error without message or path"
            continue
        except BaseException as error:
            return f"other exception: {read.__name__}: {type(error).__name__}: {error}"[:300]
        if read is probe:
            size = (result[0].height, result[0].width)
            continue
        if size is not None and result.shape[:2] != size:
            return f"contradiction: probe says {size}, {read.__name__} {result.shape[:2]}"
        if read is read_image:
            outcome = "array"
            if result.dtype != np.uint8 or result.ndim != 3 or result.shape[2] != 3:
                return f"contradiction: {result.dtype} {result.shape}"
    return outcome


def work(folder: Path, seed: int) -> None:
    """Worker: read "kind index" lines, write the file, read it, answer one line."""
    # Import the decoders before memory and time are limited.
    seeds = make_seeds(folder)
    for name, files in seeds.items():
        (folder / "warm").write_bytes(files[0])
        judge(folder / "warm")
        assert name in FORMATS
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)
    for line in sys.stdin:
        kind, index = line.rsplit(" ", 1)
        path = folder / "fuzzed"
        path.write_bytes(make_file(seeds[kind], kind, int(index), seed))
        print(judge(path).replace("\n", " "), flush=True)


class Worker:
    """A worker process that is replaced if it dies or hangs."""

    def __init__(self, folder: Path, seed: int, limit: float):
        self.command = [sys.executable, __file__, "--work", str(folder), "--seed", str(seed)]
        self.limit = limit
        self.process: subprocess.Popen | None = None

    def ask(self, kind: str, index: int) -> str:
        """Return the outcome for one file."""
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            assert self._answer(120) == "ready"
        self.process.stdin.write(f"{kind} {index}\n")
        self.process.stdin.flush()
        answer = self._answer(self.limit)
        if answer in ("hang", ""):
            self.close()
        return answer or "crash: the process died"

    def _answer(self, limit: float) -> str:
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        return self.process.stdout.readline().strip() if ready else "hang"

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="files of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--formats", nargs="*", default=FORMATS, choices=FORMATS)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for one file")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.seed)
        return 0

    figures, found = {}, []
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
        worker = Worker(Path(folder), options.seed, options.limit)
        print(
            f"{'format':<22}{'files':>6}{'array':>7}{'error':>7}{'found':>7}{'s':>7}{'slowest':>9}"
        )
        for kind in options.formats:
            counts, slowest, start = Counter(), 0.0, time.perf_counter()
            for index in range(options.count):
                before = time.perf_counter()
                answer = worker.ask(kind, index)
                slowest = max(slowest, time.perf_counter() - before)
                outcome = answer.split(":")[0]
                counts[outcome] += 1
                if outcome in FINDINGS:
                    found.append(f"{kind} {index}: {answer}")
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        file = options.keep / f"{kind.replace(' ', '_')}_{index}"
                        file.write_bytes(make_file(seeds[kind], kind, index, options.seed))
            seconds = time.perf_counter() - start
            bad = sum(counts[name] for name in FINDINGS)
            figures[kind] = {
                "files": options.count, "array": counts["array"], "error": counts["error"],
                "findings": bad, "seconds": round(seconds, 1), "slowest": round(slowest, 2),
            }  # fmt: skip
            print(
                f"{kind:<22}{options.count:>6}{counts['array']:>7}{counts['error']:>7}"
                f"{bad:>7}{seconds:>7.1f}{slowest:>9.2f}",
                flush=True,
            )
        worker.close()
    print(*found, sep="\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
