"""Which cloud's machine is this? Told by the firmware's own files: no question leaves the machine, nothing can block.

Sources: cloud-init's `ds-identify` and the clouds' own instructions for recognising their machines (AWS: "Identify EC2
Linux instances"; Google: "Detect if a VM is running in Compute Engine"; Azure's fixed chassis asset tag).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Cloud = Literal["aws", "gcp", "azure"]

FIRMWARE = Path("/sys/class/dmi/id")
DEVICES = Path("/dev")
_AZURE_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"
# Longer than any of these names: a file that is no firmware's is not read to its end.
_MAX_CHARS = 256


def cloud_of_this_machine(firmware: Path = FIRMWARE) -> Cloud | None:
    """The cloud that runs this machine; None where the firmware names none of them, or cannot be read."""
    vendor, product = _read(firmware / "sys_vendor"), _read(firmware / "product_name")
    if vendor.startswith("Amazon EC2") or "amazon" in _read(firmware / "bios_version").lower():
        return "aws"
    if product == "Google Compute Engine":
        return "gcp"
    if _read(firmware / "chassis_asset_tag") == _AZURE_ASSET_TAG:
        return "azure"
    return None


def has_accelerator(devices: Path = DEVICES) -> bool:
    """Whether this machine has a GPU or TPU: it then cannot be moved to another host while it runs."""
    return any(next(devices.glob(pattern), None) for pattern in ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*"))


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_CHARS).strip()
    except OSError:
        return ""
