"""Which product a GPU is: the driver's product names, matched by a table and by nothing else.

A name that is not in the table is an unknown product, and its value is unknown: a guess here would
be a price for something else. Names are those that nvmlDeviceGetName and nvidia-smi print; memory
and form factor follow NVIDIA's product briefs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, order=True)
class Product:
    """What a price table prices: a model and its form factor."""

    model: str
    form_factor: str

    def __str__(self) -> str:
        return f"{self.model} {self.form_factor}"


PRODUCTS: Final = MappingProxyType(
    {
        "NVIDIA A100-SXM4-40GB": Product("A100 40GB", "SXM4"),
        "NVIDIA A100-SXM4-80GB": Product("A100 80GB", "SXM4"),
        "NVIDIA A100-PCIE-40GB": Product("A100 40GB", "PCIe"),
        "NVIDIA A100 80GB PCIe": Product("A100 80GB", "PCIe"),
        "NVIDIA H100 80GB HBM3": Product("H100", "SXM5"),
        "NVIDIA H100 PCIe": Product("H100", "PCIe"),
        "NVIDIA H100 NVL": Product("H100 NVL", "PCIe"),
        "NVIDIA H200": Product("H200", "SXM5"),
        "NVIDIA H200 NVL": Product("H200 NVL", "PCIe"),
        "NVIDIA B200": Product("B200", "SXM6"),
        "NVIDIA B300 SXM6 AC": Product("B300", "SXM6"),
        "NVIDIA GB200": Product("GB200", "Superchip"),
        "NVIDIA GB300": Product("GB300", "Superchip"),
        "NVIDIA L4": Product("L4", "PCIe"),
        "NVIDIA L40": Product("L40", "PCIe"),
        "NVIDIA L40S": Product("L40S", "PCIe"),
        "NVIDIA RTX 6000 Ada Generation": Product("RTX 6000 Ada", "PCIe"),
        "NVIDIA RTX PRO 6000 Blackwell Server Edition": Product("RTX PRO 6000", "PCIe"),
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": Product(
            "RTX PRO 6000 Workstation", "PCIe"
        ),
    }
)


_DIES: Final = MappingProxyType(
    {"H100": "GH", "H200": "GH", "B200": "GB", "B300": "GB", "GB200": "GB", "GB300": "GB"}
    | {"H100 NVL": "GH", "RTX PRO 6000": "GB", "RTX PRO 6000 Workstation": "GB"}
)
"""How the name of a model's die begins, where it can sign: GH is Hopper, GB Blackwell. In devices'
certificates GH100 and GB100 were seen; the others of a generation are not told from each other."""


def may_be(name: str | None, chip: str) -> bool:
    """Whether a GPU that its driver gives this name can have the die that its certificate names.

    A product that is not in the table can have any: it has no value either.
    """
    product = product_of(name)
    return product is None or chip.startswith(_DIES.get(product.model, "no die that signs"))


def product_of(name: str | None) -> Product | None:
    """The product a driver's name stands for; None where the table does not know it."""
    return PRODUCTS.get(name) if name is not None else None
