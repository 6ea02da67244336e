"""A stand-in for TorchServe's worker in the rehearsal of an archive: loads it, and answers batches of requests.

python -P stand_in_worker.py JOB.json OUTPUT.json    in the unpacked archive, with that folder as PYTHONPATH

This repository cannot be imported there: the script needs only the standard library and TorchServe.
"""

import base64
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any


def load(job: dict[str, Any]) -> Any:
    """Return TorchServe's service of the archive in this directory, as its worker makes it."""
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import ModelLoaderFactory

    metrics = MetricsCacheYamlImpl(config_file_path=str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    metrics.model_name = job["name"]
    loader = ModelLoaderFactory.get_model_loader()
    service = loader.load(
        job["name"], str(Path.cwd()), job["handler"], job["gpu"], job["batch_size"], metrics_cache=metrics
    )
    service.set_cl_socket(None)
    return service


def batch(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return requests as the worker reads them from its socket."""
    return [
        {
            "requestId": str(number).encode(),
            "headers": [{"name": name.encode(), "value": value.encode()} for name, value in request["headers"].items()],
            "parameters": [
                {"name": "body", "contentType": "", "value": bytearray(base64.b64decode(request["body"]))},
            ],
        }
        for number, request in enumerate(requests)
    ]


def reason(error: BaseException) -> str:
    """Return the cause of an error in one line."""
    # If the handler fails to import a module, the loader tries its name as one of TorchServe's built-in handlers.
    if isinstance(error, ImportError) and (error.name or "").startswith("ts.torch_handler") and error.__context__:
        error = error.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())


def main() -> None:
    """Write {"messages": [...]}, one worker's message for each batch, or {"error": "..."}."""
    os.nice(10)  # serving has priority
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    source, target = map(Path, sys.argv[1:])
    job = json.loads(source.read_text())
    try:
        service = load(job)
    except Exception as error:
        logging.exception("The archive cannot be loaded")
        document: dict[str, Any] = {"error": reason(error)}
    else:
        messages = [service.predict(batch(requests)) for requests in job["batches"]]
        document = {"messages": [base64.b64encode(message).decode() for message in messages]}
    target.write_text(json.dumps(document))


if __name__ == "__main__":
    main()
