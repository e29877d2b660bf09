"""The console script. Works in the thinnest install, if only to say what is missing."""

import os
import signal
import sys

_EXTRA_OF = {
    "typer": "cli",
    "rich": "cli",
    "tritonclient": "gateway",
    "prometheus_client": "gateway",
    "tokenizers": "gateway",
    "pydantic": "gateway",
    "grpc_health": "gateway",
    "grpc_reflection": "gateway",
    "torch": "build",
    "transformers": "build",
    "polars": "build",
    "onnx": "build",
    "onnxruntime": "build",
    "sklearn": "build",
    "scipy": "build",
    "accelerate": "build",
    "jinja2": "build",
    "matplotlib": "build",
}


def main() -> None:
    """Run `platform`. Exit codes: 0 done, 1 failed with a sentence, 2 wrong usage, 130 interrupted
    before it began, 143 ended by SIGTERM before that."""
    if os.getpid() == 1:  # of a container: the kernel lets no signal end it that has no handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # ONNX Runtime reads it while it is imported, here and in children, and tells its makers of
    # machine, program and sessions else.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        from shopcast_cli.app import app

        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = _EXTRA_OF.get(package)
        if extra is None:
            raise
        print(
            f"this command needs {package}: install it with `pip install 'shopcast[{extra}]'`",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
