"""Which cloud a machine belongs to, by its firmware's files."""

from __future__ import annotations

import pytest

from jobs.train.notices.machine import cloud_of_this_machine


@pytest.mark.parametrize(
    ("files", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2\n"}, "aws"),
        ({"sys_vendor": "Xen", "bios_version": "4.11.amazon"}, "aws"),
        ({"sys_vendor": "Google", "product_name": "Google Compute Engine\n"}, "gcp"),
        (
            {
                "sys_vendor": "Microsoft Corporation",
                "product_name": "Virtual Machine",
                "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77\n",
            },
            "azure",
        ),
        ({"sys_vendor": "Microsoft Corporation", "product_name": "Virtual Machine"}, None),
        ({"sys_vendor": "Dell Inc.", "product_name": "PowerEdge R750"}, None),
        ({}, None),
    ],
)
def test_firmware_names_the_cloud(tmp_path, files, cloud):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cloud_of_this_machine(tmp_path) == cloud


def test_firmware_that_cannot_be_read_names_nobody(tmp_path):
    (tmp_path / "sys_vendor").mkdir()
    (tmp_path / "product_name").write_bytes(b"\xff\xfe")
    assert cloud_of_this_machine(tmp_path) is None
