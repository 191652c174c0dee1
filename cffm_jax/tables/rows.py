"""The papers' tables: the published figures of each row, and the network that stands behind it.
Numbered as in the second paper (CFFM++, TPAMI 2024)."""

from __future__ import annotations

import dataclasses
from typing import Any

from cffm_jax.models.methods.cffm_families import FAMILIES, parts_of
from cffm_jax.tables.ablations import (
    CFFA,
    TABLE4,
    TABLE5,
    TABLE6,
    TABLE7,
    TABLE8,
    TABLE9,
    TABLE10,
    TABLE11,
)
from cffm_jax.tables.networks import Network, cffm, compared, on_cityscapes, segformer, with_global
from cffm_jax.tables.table_types import CITYSCAPES, TEST_SERVER, Costs, Row, Table


def _row(system: Network | str, *figures: Any, **others: Any) -> Row:
    """The row of a network under its own name; of a system that is not here only the name is
    given."""
    network, title = (None, system) if isinstance(system, str) else (system, system.title)
    label = title.partition(" (")[0].lower().replace(", ", "-").replace(" ", "-")
    return Row(label, title, network, *figures, **others)


def _test(system: Network | str, *figures: Any) -> Row:
    """Of Table 2, whose parameters are Table 1's."""
    row = _row(system, *figures, where=TEST_SERVER)
    costs = next(each.costs for each in TABLE1.rows if each.label == row.label)
    return dataclasses.replace(row, costs=Costs(costs.parameters) if costs else None)


def _city(system: Network | str, miou: float, parameters: float | None, fps: float) -> Row:
    return _row(system, miou, where=CITYSCAPES, costs=Costs(parameters, None, fps))


# Systems that the papers compare with. One that is not here is its name alone. Where another
# system stands for the papers', the name ends with it: "DFF, ResNet-101 (here: after DFF)".
_RESNET = {"init.encoder": "resnet101.pth"}
_FLOW = _RESNET | {"init.flow": "raft_large.pth"}
_MOBILENET = {"init.encoder": "mnv2.pth"}
_SMALL_FLOW = {"init.flow": "raft_small.pth"}
_RESNET_M = {"init.encoder": "resnet101_v1c.pth"}
_TRAINED = {"init.model": "pspnet_r101.pth"} | _SMALL_FLOW
_DEEPLABV3PLUS = compared("deeplabv3plus", "r101", "DeepLabv3+, ResNet-101", _RESNET)
_UPERNET = compared("upernet", "r101", "UperNet, ResNet-101", _RESNET)
_PSPNET = compared("pspnet", "r101", "PSPNet, ResNet-101", _RESNET)
_OCRNET = compared("ocrnet", "r101", "OCRNet, ResNet-101", _RESNET)
_ETC_PSPNET = compared("etc_psp", "r101", "ETC, PSPNet", _FLOW)
_NETWARP_PSPNET = compared("netwarp_psp", "r101", "NetWarp, PSPNet", _FLOW)
_ETC_OCRNET = compared("etc_ocr", "r101", "ETC, OCRNet", _FLOW)
_NETWARP_OCRNET = compared("netwarp_ocr", "r101", "NetWarp, OCRNet", _FLOW)
_TCB_PPM = compared("tcb_ppm", "r101", "TCB ST-PPM, ResNet-101", _RESNET)
_TCB_OCR = compared("tcb_ocr", "r101", "TCB ST-OCR, ResNet-101", _RESNET)
_TCB_OCR_MEM = compared("tcb_ocr_mem", "r101", "TCB ST-OCR-Mem, ResNet-101", _RESNET)
_FCN_CITY = compared("fcn", "mobilenetv2", "FCN, MobileNetV2", _MOBILENET, data="cityscapes")
_PSPNET_CITY = compared("pspnet", "mobilenetv2", "PSPNet, MobileNetV2", _MOBILENET, data="cityscapes")
_CC = compared("cc", "r101", "CC, VGG-16 (here: after CC, ResNet-101)", _RESNET_M, data="cityscapes")
_DFF = compared("dff", "r101", "DFF, ResNet-101 (here: after DFF)", _RESNET_M | _SMALL_FLOW, data="cityscapes")
_GRFP = compared("grfp", "r101", "GRFP, ResNet-101 (here: after GRFP)", _TRAINED, data="cityscapes")
_DVSN = compared("dvsn", "r101", "DVSN, ResNet-101 (here: after DVSN)", _TRAINED, data="cityscapes")
_ACCEL = compared("accel", "r101", "Accel, ResNet-101 (here: after Accel-18)", _TRAINED, data="cityscapes")
_ETC_CITY = compared(
    "etc_psp", "r18", "ETC, ResNet-18", {"init.encoder": "resnet18.pth"} | _SMALL_FLOW, data="cityscapes"
)

TABLE1 = Table(
    "table1",
    "Table 1: VSPW, validation split",
    (
        _row(segformer("b0"), 32.9, 82.7, 77.3, 56.8, costs=Costs(3.8, 14.6, 73.4)),
        _row(segformer("b1"), 36.5, 84.7, 79.9, 58.8, costs=Costs(13.8, 33.0, 58.7)),
        _row(cffm("b0"), 35.4, 87.7, 82.9, 58.5, costs=Costs(4.7, 25.6, 43.1)),
        _row(cffm("b1"), 38.5, 88.6, 84.1, 60.0, costs=Costs(15.5, 55.4, 29.8)),
        _row(with_global(cffm("b0")), 35.9, 88.4, 83.8, 58.9, costs=Costs(5.7, 34.3, 40.4)),
        _row(with_global(cffm("b1")), 39.9, 89.1, 84.9, 60.7, costs=Costs(16.5, 64.2, 27.6)),
        _row(_DEEPLABV3PLUS, 34.7, 83.2, 78.2, 58.8, costs=Costs(62.7)),
        _row(_UPERNET, 36.5, 82.6, 76.1, 58.6, costs=Costs(83.2)),
        _row(_PSPNET, 36.5, 84.2, 79.6, 58.1, costs=Costs(70.5, None, 13.9)),
        _row(_OCRNET, 36.7, 84.0, 79.0, 59.2, costs=Costs(58.1, None, 14.3)),
        _row(_ETC_PSPNET, 36.6, 84.1, 79.2, 58.3, costs=Costs(89.4)),
        _row(_NETWARP_PSPNET, 37.0, 84.4, 79.4, 57.9, costs=Costs(89.4)),
        _row(_ETC_OCRNET, 37.5, 84.1, 79.1, 59.1, costs=Costs(58.1)),
        _row(_NETWARP_OCRNET, 37.5, 84.0, 79.0, 58.9, costs=Costs(58.1)),
        _row(_TCB_PPM, 37.5, 87.0, 82.1, 58.6, costs=Costs(70.5, None, 10.0)),
        _row(_TCB_OCR, 37.4, 86.9, 82.0, 59.3, costs=Costs(58.1, None, 5.5)),
        _row(_TCB_OCR_MEM, 37.8, 87.9, 84.0, 59.5, costs=Costs(58.1, None, 5.5)),
        _row(segformer("b2"), 43.9, 86.0, 81.2, 63.7, costs=Costs(24.8, 57.2, 39.2)),
        _row(segformer("b5"), 48.2, 87.8, 83.7, 65.1, costs=Costs(82.1, 187.0, 17.2)),
        _row(cffm("b2"), 44.9, 89.8, 85.8, 64.9, costs=Costs(26.5, 79.6, 23.8)),
        _row(cffm("b5"), 49.3, 90.8, 87.1, 65.8, costs=Costs(85.5, 232.2, 11.3)),
        _row(with_global(cffm("b2")), 45.5, 90.2, 86.4, 64.7, costs=Costs(28.5, 96.9, 21.5)),
        _row(with_global(cffm("b5")), 50.1, 90.8, 87.4, 66.5, costs=Costs(87.5, 249.5, 10.4)),
    ),
    "SegFormer is trained here as CFFM is, on clips of four frames, with the cross-entropy of the target and half of "
    "the mean of all four. How the papers trained the baseline they do not say. The systems on ResNet-101 have the "
    "form of the VSPW baselines ([two forms](compared_systems.md#two-forms)). The papers count its parameters, but for "
    "DeepLabv3+: their 62.7 M are of MMSegmentation's form; the one that is trained here has 59.5 M.",
    ablation=False,
)
TABLE2 = Table(
    "table2",
    "Table 2: VSPW, test split",
    (
        _test(segformer("b0"), 30.9, 81.6, 75.7),
        _test(segformer("b1"), 33.5, 82.6, 76.9),
        _test(cffm("b0"), 31.8, 86.3, 80.9),
        _test(cffm("b1"), 35.1, 87.2, 82.2),
        _test(with_global(cffm("b0")), 32.8, 87.4, 82.4),
        _test(with_global(cffm("b1")), 36.0, 87.9, 83.2),
        _test(_DEEPLABV3PLUS, 32.2, 81.0, 75.0),
        _test(_UPERNET, 33.5, 79.3, 73.3),
        _test(_PSPNET, 33.8, 83.4, 78.3),
        _test(_OCRNET, 34.0, 82.9, 77.4),
        _test(_ETC_PSPNET, 33.8, 82.8, 77.1),
        _test(_NETWARP_PSPNET, 33.7, 82.6, 77.1),
        _test(_ETC_OCRNET, 34.6, 83.1, 78.0),
        _test(_NETWARP_OCRNET, 35.0, 83.2, 77.2),
        _test(_TCB_PPM, 34.6, 85.2, 80.2),
        _test(_TCB_OCR, 35.1, 85.1, 80.1),
        _test(_TCB_OCR_MEM, 35.6, 86.2, 81.9),
        _test(segformer("b2"), 40.0, 84.9, 79.8),
        _test(cffm("b2"), 41.0, 88.4, 83.6),
        _test(with_global(cffm("b2")), 42.0, 88.9, 84.7),
    ),
    "The networks are those of Table 1. The labels are not public: the figures come from the server of the VSPW2021 "
    "challenge, for which `python eval.py --checkpoint runs/cffm_b1_vspw --submission masks.zip` writes the masks "
    "(none has been sent). Those of the compared systems the papers take from VSPW's paper (CVPR 2021).",
    ablation=False,
)
TABLE3 = Table(
    "table3",
    "Table 3: Cityscapes",
    (
        _city(_FCN_CITY, 61.5, 9.8, 14.2),
        _city(_CC, 67.7, None, 16.5),
        _city(_DFF, 68.7, None, 9.7),
        _city(_GRFP, 69.4, None, 3.2),
        _city(_PSPNET_CITY, 70.2, 13.7, 11.2),
        _city(_DVSN, 70.3, None, 19.8),
        _city(_ACCEL, 72.1, None, 3.6),
        _city(_ETC_CITY, 71.1, 13.2, 9.5),
        _city(on_cityscapes(segformer("b0")), 71.9, 3.7, 58.5),
        _city(on_cityscapes(cffm("b0")), 74.0, 4.6, 34.2),
        _city(on_cityscapes(with_global(cffm("b0"))), 74.3, 5.1, 28.8),
        _city(on_cityscapes(segformer("b1")), 74.1, 13.8, 46.8),
        _city(on_cityscapes(cffm("b1")), 75.1, 15.4, 23.6),
        _city(on_cityscapes(with_global(cffm("b1"))), 75.7, 15.9, 20.4),
    ),
    "The validation split, of which one frame in 30 is labelled: the video consistency cannot be measured. The "
    "prototypes of CFFM++ are those of a snippet of 30 frames. The commands expect leftImg8bit_sequence and gtFine in "
    "`data/cityscapes`. The papers do not say for how many iterations CFFM++ is trained here: as on VSPW. Its 5.1 and "
    "15.9 M parameters are those of CFFM and of a global block's MLP; with its attention they are 5.4 and 16.2 M. The "
    "papers took the compared systems' figures from elsewhere. Those of CC, DFF, GRFP, DVSN and Accel are of the "
    "authors' networks; the runs are of systems after theirs on other networks, whose figures say nothing about them "
    "([what differs](compared_systems.md#after-the-systems-of-cityscapes)). ETC's 13.2 M are not explained: the "
    "network of its own code, which is trained here, has 13.8 M, with its auxiliary head 14.4 M. The 9.8 and 13.7 M "
    "on MobileNetV2 are counted with 150 "
    "classes; with the 19 of Cityscapes they are 9.7 and 13.6 M.",
    ablation=False,
)
TABLES = (TABLE1, TABLE2, TABLE3, TABLE4, TABLE5, TABLE6, TABLE7, TABLE8, TABLE9, TABLE10, TABLE11, CFFA)


def published(where: str, model: str = "") -> tuple[Row, ...]:
    """The first published row on these data of each network with the papers' settings, under the
    network's own name, whatever its table calls it.

    Args:
      where: ``VSPW``, ``TEST_SERVER`` or ``CITYSCAPES``.
      model: name of a model: its own row, then those of what it holds (CFFM++ a CFFM and a
        SegFormer) with the same backbone; "" gives all.
    """
    rows: dict[str, Row] = {}
    for row in (row for table in TABLES for row in table.rows if row.where == where):
        if row.network and not row.network.variant:
            rows.setdefault(row.network.model, dataclasses.replace(row, method=row.network.title))
    if not model:
        return tuple(rows.values())
    family, _, backbone = model.partition("_")
    names = [f"{part}_{backbone}" for part in parts_of(family)] if family in FAMILIES else [model]
    return tuple(rows[name] for name in names if name in rows)
