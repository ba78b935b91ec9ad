"""Detectors made by hand: they find squares of red, green and blue, and are right about them.

A cell's score is the mean of a colour in it less that of the others, so a square that fills a cell
of 16 pixels is found with its exact box. In the shapes of the exports that people have.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64
STRIDES = (8, 16, 32)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LABELS = tuple(COLOURS)
CELLS = sum((SIDE // stride) ** 2 for stride in STRIDES)
KEPT = 20


def scene(
    squares: Sequence[tuple[str, tuple[int, int, int, int]]],
    size: tuple[int, int] = (SIDE, SIDE),
    form: str = "PNG",
    **how: Any,
) -> bytes:
    """A black picture with squares: a colour, and the box that it fills."""
    picture = Image.new("RGB", size)
    draw = ImageDraw.Draw(picture)
    for colour, (left, top, right, bottom) in squares:
        draw.rectangle((left, top, right - 1, bottom - 1), COLOURS[colour])
    file = io.BytesIO()
    picture.save(file, form, **how)
    return file.getvalue()


def boxes() -> np.ndarray:
    """Each cell's box as cx, cy, w, h in pixels, (4, cells)."""
    found = []
    for stride in STRIDES:
        y, x = np.mgrid[: SIDE // stride, : SIDE // stride]
        middle = (np.stack([x.ravel(), y.ravel()]) + 0.5) * stride
        found.append(np.concatenate([middle, np.full_like(middle, stride)]))
    return np.concatenate(found, axis=1).astype(np.float32)


def export(path: Path, kind: str, *, batch: int | None = None) -> None:
    """Write an ONNX file: "grid" (N, 7, cells), "rows" (N, 20, 6), or "queries" (N, 20, 4) and
    (N, 20, 3), called as RF-DETR calls them.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {}

    def add(operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    def constant(name: str, value: Any, dtype: Any = np.float32) -> str:
        constants[name] = np.asarray(value, dtype)
        return name

    # 1.5 of a colour less half of all: 1 where it is alone, below 0 where it is not there.
    mix = 1.5 * np.eye(3, dtype=np.float32) - 0.5
    add("Conv", ["images", constant("mix", mix[:, :, None, None])], "shares", kernel_shape=[1, 1])
    levels = []
    for stride in STRIDES:
        pooled = add(
            "AveragePool", ["shares"], f"pooled_{stride}",
            kernel_shape=[stride, stride], strides=[stride, stride],
        )  # fmt: skip
        flat = constant(f"flat_{stride}", [0, 3, -1], np.int64)
        levels.append(add("Reshape", [pooled, flat], f"level_{stride}"))
    add("Concat", levels, "all", axis=2)
    only = np.concatenate([np.full((SIDE // s) ** 2, 1.0 if s == 16 else 0.2) for s in STRIDES])
    add("Relu", ["all"], "positive")
    add("Mul", ["positive", constant("only", only[None, None])], "scores")
    add("ReduceMax", ["scores", constant("one", [1], np.int64)], "best")
    add("Mul", ["best", constant("zero", 0.0)], "nothing")
    add("Add", ["nothing", constant("cells", boxes()[None])], "boxes")
    if kind == "grid":
        add("Concat", ["boxes", "scores"], "output0", axis=1)
        outputs = {"output0": (3 + 4, CELLS)}
    else:
        add("Reshape", ["best", constant("line", [0, CELLS], np.int64)], "ranking")
        nodes.append(
            helper.make_node(
                "TopK", ["ranking", constant("kept", [KEPT], np.int64)], ["top", "places"], axis=1
            )
        )
        add("Unsqueeze", ["places", "one"], "place")
        picked = {}
        for name, rows in (("boxes", 4), ("scores", 3)):
            wide = constant(f"wide_{rows}", [1, rows, 1], np.int64)
            where = add("Tile", ["place", wide], f"where_{name}")
            gathered = add("GatherElements", [name, where], f"chosen_{name}", axis=2)
            picked[name] = add("Transpose", [gathered], f"picked_{name}", perm=[0, 2, 1])
    if kind == "rows":
        corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
        add("MatMul", [picked["boxes"], constant("corners", corners)], "xyxy")
        add("ArgMax", [picked["scores"]], "number", axis=2)
        add("Cast", ["number"], "class", to=TensorProto.FLOAT)
        add("Unsqueeze", ["top", constant("last", [2], np.int64)], "score")
        add("Concat", ["xyxy", "score", "class"], "output0", axis=2)
        outputs = {"output0": (KEPT, 6)}
    if kind == "queries":
        add("Mul", [picked["boxes"], constant("share", 1 / SIDE)], "dets")
        add("Mul", [picked["scores"], constant("steep", 12.0)], "raised")
        add("Sub", ["raised", constant("half", 6.0)], "labels")
        outputs = {"dets": (KEPT, 4), "labels": (KEPT, 3)}
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (batch, 3, SIDE, SIDE))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, *shape))
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export_classifier(path: Path) -> None:
    """Write an ONNX file that tells the mean colour of 16 x 16 pixels: "warm" or "cold" logits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    mix = np.array([[8, 0, -8], [-8, 0, 8]], np.float32)
    constants = {"mix": mix.T, "flat": np.array([0, 3], np.int64)}
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Reshape", ["mean", "flat"], ["colour"]),
            helper.make_node("MatMul", ["colour", "mix"], ["logits"]),
        ],
        "warmth",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (None, 3, 16, 16))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (None, 2))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def make_yolos(folder: Path) -> None:
    """A tiny YOLOS checkpoint, random weights, images of 64 x 96."""
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        image_size=[64, 96], patch_size=16, num_detection_tokens=12, num_labels=3,
        id2label=dict(enumerate(("N/A", "cat", "N/A"))),
    )  # fmt: skip
    _save(YolosForObjectDetection, config, folder, {"shortest_edge": 64, "longest_edge": 96})


def make_d_fine(folder: Path, name: str = "DFine") -> None:
    """A tiny D-FINE (or RT-DETR) checkpoint, random weights, images of 64 x 64."""
    import transformers

    backbone = transformers.HGNetV2Config(
        stage_in_channels=[16, 16, 32, 64], stage_mid_channels=[16, 16, 32, 64],
        stage_out_channels=[16, 32, 64, 128], stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5], stage_numb_of_layers=[1, 1, 1, 1],
        stem_channels=[3, 16, 16], hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    told: dict[str, Any] = {
        "encoder_in_channels": [32, 64, 128], "encoder_hidden_dim": 32, "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "d_model": 32, "num_queries": 20, "decoder_layers": 2,
        "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 32, "decoder_attention_heads": 2,
        "num_denoising": 6, "num_labels": 3, "feat_strides": [8, 16, 32],
    }  # fmt: skip
    if name == "DFine":
        config = transformers.DFineConfig(backbone_config=backbone, **told)
    else:
        resnet = transformers.RTDetrResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1],
            layer_type="basic", out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        config = transformers.RTDetrConfig(backbone_config=resnet, **told)
    kind = getattr(transformers, f"{name}ForObjectDetection")
    _save(kind, config, folder, {"height": 64, "width": 64}, do_normalize=False)


def make_detr(folder: Path) -> None:
    """A tiny DETR checkpoint, random weights, images of 64 x 64."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=10, num_labels=3,
    )  # fmt: skip
    _save(DetrForObjectDetection, config, folder, {"height": 64, "width": 64})


def _save(kind: Any, config: Any, folder: Path, size: dict[str, int], **more: Any) -> None:
    import json

    import torch

    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # As a library draws them, small and with constant heads, all places have one score,
            # and any of them are the best.
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * (2 / weight[0].numel()) ** 0.5)
    model.save_pretrained(folder)
    told = {
        "image_processor_type": "DetrImageProcessor", "do_rescale": True, "do_resize": True,
        "do_normalize": True, "rescale_factor": 1 / 255, "size": size, **more,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(told))


def export_ssd(path: Path) -> np.ndarray:
    """Write a TFLite file with offsets (N, A, 4) and class scores (N, A, 1 + 4), the last one of a
    class that is never there; its anchors, as cx, cy, width and height in shares.

    Pixels are from -1 to 1. An anchor is a cell of 16 pixels, moved left by half of itself, so that
    the offsets have something to do.
    """
    import tensorflow as tf

    cells = boxes()[:, (SIDE // 8) ** 2 : (SIDE // 8) ** 2 + (SIDE // 16) ** 2].T / SIDE
    anchors = cells.copy()
    anchors[:, 0] -= 0.5 * anchors[:, 2]
    offsets = np.tile(np.array([0, 0.5 / 0.1, 0, 0], np.float32), (len(anchors), 1))
    mix = (1.5 * np.eye(3) - 0.5).astype(np.float32)

    class Ssd(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([1, SIDE, SIDE, 3], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, pixels: Any) -> Any:
            shares = tf.nn.conv2d((pixels + 1) / 2, mix[None, None], 1, "SAME")
            pooled = tf.reshape(tf.nn.avg_pool2d(shares, 16, 16, "VALID"), [1, -1, 3])
            scores = 12 * pooled - 6
            none = -tf.reduce_max(scores, axis=2, keepdims=True)
            moved = tf.reduce_max(pooled, axis=2, keepdims=True) * 0 + offsets
            never = tf.zeros_like(none) - 6
            return {"boxes": moved, "scores": tf.concat([none, scores, never], 2)}

    model = Ssd()
    concrete = model.__call__.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    path.write_bytes(converter.convert())
    return anchors


TITLE = (150, 70, 757, 115)
FIGURE = (200, 480, 800, 780)


def page() -> bytes:
    """A drawn page with a title, two columns of text and a picture between them."""
    from PIL import ImageFont

    whole = Image.new("RGB", (1000, 1300), "white")
    pen = ImageDraw.Draw(whole)
    pen.text((150, 60), "A Study of Drawn Documents", "black", ImageFont.load_default(46))
    words = [
        "lorem",
        "ipsum",
        "dolor",
        "sit",
        "amet",
        "consectetur",
        "adipiscing",
        "elit",
        "sed",
        "do",
        "eiusmod",
        "tempor",
    ]
    font = ImageFont.load_default(20)
    for top, count in ((170, 10), (860, 12)):
        for line in range(count):
            text = " ".join(words[(7 * line + place) % len(words)] for place in range(11))
            pen.text((100, top + 26 * line), text, "black", font)
    noise = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    left, top, right, bottom = FIGURE
    size = (right - left, bottom - top)
    whole.paste(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), (left, top))
    file = io.BytesIO()
    whole.save(file, "PNG")
    return file.getvalue()
