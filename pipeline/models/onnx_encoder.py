"""SAM2's image encoder run by ONNX Runtime: SAM2-micro's in half of torch's time, SAM2.1-tiny's in
no less, see docs/peers.md. Its sums are in another order, so that masks made with it have an
identity of their own; on the images of that page they are equal to torch's."""

from __future__ import annotations

import io
import warnings
from importlib.metadata import version

import torch

from pipeline.errors import ConfigError
from pipeline.models.sam2 import Sam2ImagePredictor


def use_onnxruntime(predictor: Sam2ImagePredictor) -> None:
    """Let ONNX Runtime encode the images of a predictor, in place; prompts are torch's as before.

    It is given one image at a time, so an embedding does not depend on the batch, and uses the
    calling thread, since the stage maps as many slices of a batch at once as there are cores.

    Raises:
        ConfigError: the packages are missing, the model is not in fp32 on the CPU, or it cannot be
            exported.
    """
    try:
        import onnx  # noqa: F401  torch needs it to export
        import onnxruntime
    except ImportError:
        remedy = "pip install 'medfocusclip[onnx]', or set segment.runtime: torch"
        raise ConfigError("segment.runtime: onnxruntime is not installed", remedy=remedy) from None
    if (predictor.device.type, predictor.precision) != ("cpu", "fp32"):
        message = "segment.runtime: onnxruntime is for fp32 on the CPU"
        raise ConfigError(message, remedy="set segment.runtime: torch")
    model, file = predictor.model, io.BytesIO()

    class Levels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.model.forward_image(pixels)["backbone_fpn"])

    black = torch.zeros(1, 3, predictor.image_size, predictor.image_size)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that are constants here
        levels, names = Levels().eval(), ["pixels"]
        try:
            torch.onnx.export(levels, (black,), file, input_names=names, dynamo=False)
        except Exception as error:  # an operation that ONNX has not
            message = f"segment.runtime: onnxruntime is not for this SAM2 ({type(error).__name__})"
            raise ConfigError(message, remedy="set segment.runtime: torch") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options, ["CPUExecutionProvider"])

    def forward_image(pixels: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        rows = [session.run(None, {"pixels": one.numpy()}) for one in pixels.split(1)]
        levels = [torch.cat([*map(torch.from_numpy, each)]) for each in zip(*rows, strict=True)]
        return {"backbone_fpn": levels, "vision_pos_enc": levels}  # the second is of videos alone

    model.forward_image = forward_image
    predictor.fingerprint = predictor.fingerprint | {"onnxruntime": version("onnxruntime")}
