"""The machine that a measurement was made on."""

import datetime
import importlib.metadata
import os
import platform
from typing import Any

import psutil

from tasks.machine.hardware import processor


def machine(threads: int) -> dict[str, Any]:
    """Processor, memory, versions, date, and how busy the machine was with other work at this moment."""
    packages = ("torch", "transformers", "numba", "safetensors")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": round(psutil.getloadavg()[0], 2),
    }
