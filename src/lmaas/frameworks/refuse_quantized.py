"""Which quantised checkpoints are read (`frameworks.quantized`), and which are refused by name."""

from typing import Any, Final

from lmaas.errors import ModelRefused

KEY: Final = "quantization_config"
METHODS: Final = ("fp8", "fbgemm_fp8", "compressed-tensors", "gptq", "awq", "mxfp4")
CONVERT: Final = (
    "Where the model runs, write it without: "
    "`model = AutoModelForCausalLM.from_pretrained(folder, device_map='auto').dequantize()` and "
    "`model.save_pretrained('plain')`; or push the checkpoint it was made from. Then "
    "`lmaas compress` makes it small again."
)


def check(told: Any) -> None:
    """Raise ModelRefused for a `quantization_config` that is not understood."""
    if not isinstance(told, dict):
        raise ModelRefused(f"{KEY} must hold an object; it holds {told!a}.")
    method = told.get("quant_method")
    if problem := _problem(told, method):
        raise ModelRefused(
            f"The checkpoint is quantised already ({method!a}), {problem}.", hint=CONVERT
        )


def _problem(told: dict[str, Any], method: Any) -> str | None:
    if method not in METHODS:
        return f"in a way that is not read; read are {', '.join(METHODS)}"
    if method == "gptq":
        kind = told.get("checkpoint_format", "gptq")
        if told.get("bits") not in (2, 4, 8) or kind not in ("gptq", "gptq_v2"):
            return f"with {told.get('bits')!a} bits as {kind!a}; read are 2, 4 and 8, gptq(_v2)"
    if method == "awq":
        kind = str(told.get("version", told.get("format", "gemm"))).lower()
        if told.get("bits", told.get("w_bit", 4)) != 4 or kind != "gemm":
            return f"as {kind!a}; read is gemm with 4 bits"
    if method == "compressed-tensors" and told.get("format") not in (
        "float-quantized", "naive-quantized",
    ):  # fmt: skip
        return f"as {told.get('format')!a}; read is float-quantized"
    return None
