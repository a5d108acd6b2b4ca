"""A plugin of vLLM for tests: writes down, in the EngineCore, what each request carries and when it was decoded.

Appends one JSON line a request to the file that SHMTRANSPORT_TEST_RECORD names.
"""

import functools
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any


def register() -> None:
    from vllm.v1.engine.core import EngineCore

    preprocess = EngineCore.preprocess_add_request

    @functools.wraps(preprocess)  # its signature is looked at
    def recorded(core: Any, request: Any) -> Any:
        decoded_s = time.monotonic()
        features = [feature.data for feature in request.mm_features or ()]
        pixels = [item["pixel_values"].data for item in features if item is not None]
        prepared = preprocess(core, request)
        digests = [hashlib.sha256(tensor.contiguous().numpy()).hexdigest() for tensor in pixels]
        line = json.dumps({"request_id": request.request_id, "decoded_s": decoded_s, "digests": digests})
        with Path(os.environ["SHMTRANSPORT_TEST_RECORD"]).open("a") as record:
            record.write(line + "\n")
        return prepared

    EngineCore.preprocess_add_request = recorded
