"""`tritonclient.http`: metadata, configuration, statistics, index, tensors plain and compressed."""

import sys
from typing import Any

import numpy as np
import tritonclient.http as triton


def main(url: str, key: str) -> None:
    """Ask for what applications ask for."""
    headers = {"Authorization": f"Bearer {key}"}
    client: Any = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_ready()
    assert client.get_model_metadata("digits", headers=headers)["inputs"]
    assert client.get_model_config("digits", headers=headers)["max_batch_size"]
    values = np.random.default_rng(2).random((3, 784), np.float32)
    given = triton.InferInput("input", [3, 784], "FP32")
    given.set_data_from_numpy(values)
    plain = client.infer("digits", [given], headers=headers).as_numpy("output_0")
    for way in ("gzip", "deflate"):
        told = client.infer(
            "digits",
            [given],
            headers=headers,
            request_compression_algorithm=way,
            response_compression_algorithm=way,
        )
        np.testing.assert_array_equal(told.as_numpy("output_0"), plain)
    assert client.get_inference_statistics("digits", headers=headers)["model_stats"]
    index = client.get_model_repository_index(headers=headers)
    assert "digits" in [entry["name"] for entry in index]
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
