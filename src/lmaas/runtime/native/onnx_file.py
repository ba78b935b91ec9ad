"""ONNX files: where their data may lie. Looks at bytes only: nothing here loads a model."""

from pathlib import Path

from lmaas.errors import ModelRefused


def check(path: Path) -> None:
    """Refuse ONNX whose external data lies outside the model's folder."""
    from google.protobuf.message import DecodeError

    try:
        names = external_files(path)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelRefused(f"{path.name} is not an ONNX model: {error}.") from None
    root = path.parent.resolve()
    for name in names:
        target = path.parent / name
        inside = target.resolve().is_relative_to(root) and not Path(name).is_absolute()
        if not inside or ".." in Path(name).parts or target.is_symlink():
            raise ModelRefused(
                f"{path.name} keeps data outside its folder: {name!a}.",
                hint="Put the external data beside the model.",
            )
        if not target.is_file():
            raise ModelRefused(f"{path.name} needs {name!a}, which is missing.")


def external_files(path: Path) -> list[str]:
    """The data files that an ONNX file names, relative to its folder."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    tensors = onnx.external_data_helper._get_all_tensors(model)
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})
