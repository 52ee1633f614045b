"""Image encoders run by ONNX Runtime in the place of torch. The small embedded ones take 0.3 to
0.5 of the time, SAM2.1-tiny no less: see docs/peers.md. Sums are in another order, so that masks
and features made so have an identity of their own; on the images of that page masks are equal to
torch's, and features have a cosine of 1.0000 to these."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import torch

from pipeline.errors import ConfigError, ModelError
from pipeline.models.clip import RUNTIME, ClipModel
from pipeline.models.sam2 import Sam2ImagePredictor
from pipeline.models.timm_encoder import TimmEncoder


def onnxruntime_for_sam2(predictor: Sam2ImagePredictor) -> None:
    """Let ONNX Runtime encode the images of a predictor, in place; prompts are torch's as before.

    It is given one image at a time, so an embedding does not depend on the batch, and uses the
    calling thread, since the stage maps as many slices of a batch at once as there are cores.

    Raises:
        ConfigError: the packages are missing, the model is not in fp32 on the CPU, or it cannot be
            exported.
    """
    model = predictor.model

    def levels(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(model.forward_image(pixels)["backbone_fpn"])

    run = exported("segment", predictor, levels)

    def forward_image(pixels: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        found = run(pixels)
        return {"backbone_fpn": found, "vision_pos_enc": found}  # the second is of videos alone

    model.forward_image = forward_image
    predictor.fingerprint = predictor.fingerprint | {RUNTIME: version(RUNTIME)}


def onnxruntime_for_clip(clip: ClipModel | TimmEncoder) -> None:
    """Let ONNX Runtime encode the images of a CLIP, or of a timm model in its place: features and
    maps; texts and patch tokens are torch's as before. As `onnxruntime_for_sam2` in all else."""

    def outputs(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not has_maps:
            return (encode_image(pixels),)
        vector, maps = encode_maps(pixels)
        return vector, *maps

    encode_image, encode_maps = clip.encode_image, clip.encode_maps
    has_maps = True
    try:
        encode_maps(torch.zeros(1, 3, clip.image_size, clip.image_size))
    except (ModelError, RuntimeError):  # which `encode_maps` below says again
        has_maps = False
    run = exported("encode", clip, outputs)

    def image(images: torch.Tensor, tokens: bool = False):
        return encode_image(images, tokens) if tokens else run(images)[0]

    def maps(images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        vector, *found = run(images)
        return (vector, found) if found else encode_maps(images)  # which says what lacks

    clip.encode_image, clip.encode_maps = image, maps
    clip.fingerprint = clip.fingerprint | {RUNTIME: version(RUNTIME)}


def exported(
    stage: str,
    model: Sam2ImagePredictor | ClipModel | TimmEncoder,
    call: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Return a function that runs `call` in ONNX Runtime, on images (B, 3, s, s) one by one."""
    setting = f"{stage}.runtime"
    try:
        import onnx  # noqa: F401  torch needs it to export
        import onnxruntime
    except ImportError:
        remedy = f"pip install 'medfocusclip[onnx]', or set {setting}: torch"
        raise ConfigError(f"{setting}: onnxruntime is not installed", remedy=remedy) from None
    if (model.device.type, model.precision) != ("cpu", "fp32"):
        message = f"{setting}: onnxruntime is for fp32 on the CPU"
        remedy = f"set {setting}: torch, or use --device cpu --precision fp32"
        raise ConfigError(message, remedy=remedy)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.model  # whose weights become constants

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return call(pixels)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    black, file = torch.zeros(1, 3, model.image_size, model.image_size), io.BytesIO()
    quick = torch.backends.mha.get_fastpath_enabled()
    with (
        warnings.catch_warnings(),
        stdout_discarded(),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")  # of sizes that are constants here
        names = ["pixels"]
        torch.backends.mha.set_fastpath_enabled(False)  # one operation that ONNX has not
        try:
            torch.onnx.export(Encoder().eval(), (black,), file, input_names=names, dynamo=False)
            graph, where = file.getvalue(), ["CPUExecutionProvider"]
            session = onnxruntime.InferenceSession(graph, options, where)
        except Exception as error:  # an operation that one of them has not
            message = f"{setting}: onnxruntime is not for this model ({type(error).__name__})"
            raise ConfigError(message, remedy=f"set {setting}: torch") from None
        finally:
            torch.backends.mha.set_fastpath_enabled(quick)

    def run(pixels: torch.Tensor) -> list[torch.Tensor]:
        rows = [session.run(None, {"pixels": one.numpy()}) for one in pixels.split(1)]
        return [torch.from_numpy(np.concatenate(each)) for each in zip(*rows, strict=True)]

    return run


@contextmanager
def stdout_discarded() -> Iterator[None]:
    """Discard what C code writes to stdout: torch prints all of a graph that it cannot export."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)
