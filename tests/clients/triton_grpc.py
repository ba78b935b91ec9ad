"""`tritonclient.grpc`: the same over gRPC, and a stream."""

import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def main(url: str, key: str, address: str) -> None:
    """Ask for what applications ask for."""
    headers = {"authorization": f"Bearer {key}"}
    client: Any = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_model_ready("digits", headers=headers)
    values = np.random.default_rng(2).random((3, 784), np.float32)
    given = triton.InferInput("input", [3, 784], "FP32")
    given.set_data_from_numpy(values)
    plain = client.infer("digits", [given], headers=headers).as_numpy("output_0")
    packed = client.infer("digits", [given], headers=headers, compression_algorithm="gzip")
    np.testing.assert_array_equal(packed.as_numpy("output_0"), plain)
    told: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: told.put((result, error)), headers=headers)
    client.async_stream_infer("digits", [given])
    result, error = told.get(timeout=30)
    assert error is None
    np.testing.assert_array_equal(result.as_numpy("output_0"), plain)
    client.stop_stream()
    assert client.get_model_config("digits", headers=headers).config.max_batch_size
    assert client.get_inference_statistics("digits", headers=headers).model_stats
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
