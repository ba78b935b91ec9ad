"""The messages of the Open Inference Protocol over gRPC, made when they are first needed.

Source: KServe's Open Inference Protocol and Triton's extensions of it; what is left out here has
its default. The classes live in a pool of their own: a client in the same process has the same
names in the common one.
"""

from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
SERVICE: Final = f"{PACKAGE}.GRPCInferenceService"

_TABLE: Final = """
ServerLiveRequest:
ServerLiveResponse: live 1 bool
ServerReadyRequest:
ServerReadyResponse: ready 1 bool
ModelReadyRequest: name 1 string, version 2 string
ModelReadyResponse: ready 1 bool
ServerMetadataRequest:
ServerMetadataResponse: name 1 string, version 2 string, extensions 3 string*
ModelMetadataRequest: name 1 string, version 2 string
ModelMetadataResponse: name 1 string, versions 2 string*, platform 3 string,
  inputs 4 ModelMetadataResponse.TensorMetadata*, outputs 5 ModelMetadataResponse.TensorMetadata*
ModelMetadataResponse.TensorMetadata: name 1 string, datatype 2 string, shape 3 int64*
InferParameter: bool_param 1 bool|, int64_param 2 int64|, string_param 3 string|,
  double_param 4 double|, uint64_param 5 uint64|
InferTensorContents: bool_contents 1 bool*, int_contents 2 int32*, int64_contents 3 int64*,
  uint_contents 4 uint32*, uint64_contents 5 uint64*, fp32_contents 6 float*,
  fp64_contents 7 double*, bytes_contents 8 bytes*
ModelInferRequest: model_name 1 string, model_version 2 string, id 3 string,
  parameters 4 InferParameter#, inputs 5 ModelInferRequest.InferInputTensor*,
  outputs 6 ModelInferRequest.InferRequestedOutputTensor*, raw_input_contents 7 bytes*
ModelInferRequest.InferInputTensor: name 1 string, datatype 2 string, shape 3 int64*,
  parameters 4 InferParameter#, contents 5 InferTensorContents
ModelInferRequest.InferRequestedOutputTensor: name 1 string, parameters 2 InferParameter#
ModelInferResponse: model_name 1 string, model_version 2 string, id 3 string,
  parameters 4 InferParameter#, outputs 5 ModelInferResponse.InferOutputTensor*,
  raw_output_contents 6 bytes*
ModelInferResponse.InferOutputTensor: name 1 string, datatype 2 string, shape 3 int64*,
  parameters 4 InferParameter#, contents 5 InferTensorContents
ModelStreamInferResponse: error_message 1 string, infer_response 2 ModelInferResponse
ModelConfigRequest: name 1 string, version 2 string
ModelConfigResponse: config 1 ModelConfig
ModelConfig: name 1 string, platform 2 string, backend 17 string, max_batch_size 4 int32,
  input 5 ModelInput*, output 6 ModelOutput*, dynamic_batching 11 ModelDynamicBatching
ModelDynamicBatching:
ModelInput: name 1 string, data_type 2 DataType, dims 4 int64*
ModelOutput: name 1 string, data_type 2 DataType, dims 3 int64*
ModelStatisticsRequest: name 1 string, version 2 string
ModelStatisticsResponse: model_stats 1 ModelStatistics*
ModelStatistics: name 1 string, version 2 string, last_inference 3 uint64,
  inference_count 4 uint64, execution_count 5 uint64, inference_stats 6 InferStatistics
InferStatistics: success 1 StatisticDuration, fail 2 StatisticDuration
StatisticDuration: count 1 uint64, ns 2 uint64
RepositoryIndexRequest: repository_name 1 string, ready 2 bool
RepositoryIndexResponse: models 1 RepositoryIndexResponse.ModelIndex*
RepositoryIndexResponse.ModelIndex: name 1 string, version 2 string, state 3 string,
  reason 4 string
ModelRepositoryParameter: bool_param 1 bool|, int64_param 2 int64|, string_param 3 string|,
  bytes_param 4 bytes|
RepositoryModelLoadRequest: repository_name 1 string, model_name 2 string,
  parameters 3 ModelRepositoryParameter#
RepositoryModelLoadResponse:
RepositoryModelUnloadRequest: repository_name 1 string, model_name 2 string,
  parameters 3 ModelRepositoryParameter#
RepositoryModelUnloadResponse:
"""
"""A message a line: its fields by name, number and type; `*` many, `#` by name, `|` one of them."""
_TYPES: Final = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "STRING", "BF16",
)  # fmt: skip
"""The data types of a model's configuration, in the order of their numbers."""
_CHOICE: Final = "parameter_choice"
_Field = descriptor_pb2.FieldDescriptorProto


def of(name: str) -> Any:
    """The class of the message `name`."""
    return _classes()[name]


@cache
def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    file = _file()
    pool.Add(file)
    names = [line.split(":")[0] for line in _TABLE.splitlines() if line and line[0] != " "]
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"{PACKAGE}.{name}")) for name in names}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_TYPES):
        types.value.add(name=f"TYPE_{name}", number=number)
    known: dict[str, Any] = {}
    for line in _TABLE.replace(",\n  ", ", ").replace(":\n  ", ": ").split("\n"):
        name, _, fields = line.partition(":")
        if not name:
            continue
        outer, dot, inner = name.rpartition(".")
        message = known[outer].nested_type.add() if dot else file.message_type.add()
        message.name = inner
        known[name] = message
        for field in filter(None, fields.strip().split(", ")):
            _add(message, name, field.rstrip(","))
    return file


def _add(message: Any, owner: str, told: str) -> None:
    name, number, kind = told.split()
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    plain = kind.rstrip("*#|")
    if plain == "DataType":
        field.type, field.type_name = _Field.TYPE_ENUM, f".{PACKAGE}.{plain}"
    elif plain[0].isupper():
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{plain}"
    else:
        field.type = getattr(_Field, f"TYPE_{plain.upper()}")
    if kind.endswith("*"):
        field.label = _Field.LABEL_REPEATED
    elif kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name=_CHOICE)
        field.oneof_index = 0
    elif kind.endswith("#"):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
        entry.field.add(
            name="value",
            number=2,
            type=_Field.TYPE_MESSAGE,
            type_name=f".{PACKAGE}.{plain}",
            label=_Field.LABEL_OPTIONAL,
        )
        field.label = _Field.LABEL_REPEATED
        field.type_name = f".{PACKAGE}.{owner}.{entry.name}"
